"""A server that answers every request with bytes of a test's choice, byte by byte if it wants."""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

Answer = Callable[[str], Iterable[bytes]]


@contextmanager
def raw_http_server(answer: Answer) -> Iterator[str]:
    """Run the server for the block, and yield its address.

    `answer` gets the path of a request, and returns the parts to send; the connection ends after
    the last one.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_serve, args=(server, answer))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def http_answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """Return a full answer with the length of its body."""
    named = {"Content_Length": str(len(body)), **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body


def _serve(server: socket.socket, answer: Answer) -> None:
    threads = []
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            break
        threads.append(threading.Thread(target=_answer_one, args=(client, answer)))
        threads[-1].start()
    for thread in threads:
        thread.join()


def _answer_one(client: socket.socket, answer: Answer) -> None:
    with client, suppress(OSError):
        request = b""
        while b"\r\n\r\n" not in request:
            if not (part := client.recv(65536)):
                return
            request += part
        for part in answer(request.split(b" ", 2)[1].decode()):
            client.sendall(part)
