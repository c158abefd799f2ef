"""One call at a time in the background, so that no batch waits for a store, a check or a commit."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Generic, TypeVar

Returned = TypeVar("Returned")
Run = Callable[[Callable[[], None]], None]


class Worker:
    """A daemon thread that runs calls one after another.

    One thread for all calls: a thread for each would leave a malloc arena each.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(
            target=_run_all, args=(self._calls,), name=name, daemon=True
        )

    def __call__(self, call: Callable[[], None]) -> None:
        """Queue a call, and start the thread with the first one."""
        if not self._thread.is_alive():
            self._thread.start()
        self._calls.put(call)

    def close(self, seconds: float) -> None:
        """Wait at most `seconds` for the queued calls.

        A thread that Python stops inside native code can crash the process.
        """
        if self._thread.is_alive():
            self._calls.put(None)
            self._thread.join(seconds)


def _run_all(calls: "SimpleQueue[Callable[[], None] | None]") -> None:
    while (call := calls.get()) is not None:
        call()
        del call  # a reference would keep a model that is out of service


def inline(call: Callable[[], None]) -> None:
    """Run a call in the calling thread."""
    call()


class Background(Generic[Returned]):
    """At most one call, from its start until its result is polled; for use by one thread."""

    def __init__(self) -> None:
        self._answer: Future[Returned] | None = None

    @property
    def idle(self) -> bool:
        """Return whether no call is running and no result waits."""
        return self._answer is None

    def start(self, call: Callable[[], Returned], run: Run) -> None:
        """Start a call by `run`; the result of the call before must have been polled."""
        answer: Future[Returned] = Future()
        self._answer = answer
        run(lambda: _run(call, answer))

    def wait(self) -> None:
        """Wait until the call has ended, if any; keep its result for `poll` or `result`."""
        if self._answer is not None:
            wait([self._answer])

    def poll(self) -> Returned | None:
        """Return the result of an ended call, once, or None; raise what the call raised."""
        return self.result() if self._answer is not None and self._answer.done() else None

    def result(self) -> Returned:
        """Wait for the call and return its result, once; raise what the call raised.

        Raises ValueError if no call was started.
        """
        answer, self._answer = self._answer, None
        if answer is None:
            raise ValueError("no call was started")
        return answer.result()


def _run(call: Callable[[], Returned], answer: Future[Returned]) -> None:
    try:
        answer.set_result(call())
    except BaseException as error:  # noqa: BLE001  # raised again where the result is polled
        answer.set_exception(error)
