"""A TCP proxy on this machine whose other side can be made to refuse, to stall or to be slow."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, Literal

Mode = Literal["pass", "refuse", "slow", "stall"]
_TICK = 0.02


class Proxy:
    """Passes bytes both ways.

    Refusing, it resets what is open and listens no more; stalling, it keeps every byte.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> None:
        self._loop = loop
        self._to = (host, port)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._mode: Mode = "pass"
        self._seconds = 0.0
        self.port = 0
        self._run(self._listen())

    def set(self, mode: Mode, seconds: float = 0.0) -> None:
        """From now on; slow is `seconds` before each chunk."""
        self._run(self._set(mode, seconds))

    def close(self) -> None:
        """Refuse for good."""
        self.set("refuse")

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _set(self, mode: Mode, seconds: float) -> None:
        self._mode, self._seconds = mode, seconds
        if mode == "refuse" and self._server is not None:
            self._server.close()
            self._server = None
            for writer in set(self._open):
                writer.transport.abort()
        elif mode != "refuse" and self._server is None:
            await self._listen()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._to)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._open |= both
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            self._open -= both
            for end in both:
                end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                while self._mode == "stall":
                    await asyncio.sleep(_TICK)
                if self._mode == "slow":
                    await asyncio.sleep(self._seconds)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@contextlib.contextmanager
def proxying() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in a thread of its own, for any number of proxies."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="proxies")
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_end(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
