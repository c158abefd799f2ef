"""One call at a time in a thread of its own, so that no batch waits for what a store or a check takes."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Found = TypeVar("Found")
Run = Callable[[Callable[[], None]], None]


def in_thread(work: Callable[[], None]) -> None:
    """Do this in a thread that the end of the process does not wait for."""
    threading.Thread(target=work, name="models", daemon=True).start()


def at_once(work: Callable[[], None]) -> None:
    """Do this in the thread that asks."""
    work()


class Background(Generic[Found]):
    """Holds at most one call, from its start until its answer is taken; for one thread, which waits for neither."""

    def __init__(self) -> None:
        self._answer: Future[Found] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or waits to be taken."""
        return self._answer is None

    def start(self, call: Callable[[], Found], run: Run) -> None:
        """Have `run` do a call; the one before must have been taken."""
        answer: Future[Found] = Future()
        self._answer = answer
        run(lambda: _do(call, answer))

    def take(self) -> Found | None:
        """What the call returned, once; None while there is nothing. Raises what it raised."""
        if self._answer is None or not self._answer.done():
            return None
        answer, self._answer = self._answer, None
        return answer.result()


def _do(call: Callable[[], Found], answer: Future[Found]) -> None:
    try:
        answer.set_result(call())
    except BaseException as error:  # noqa: BLE001  # raised where the answer is taken
        answer.set_exception(error)
