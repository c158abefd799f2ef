"""One call at a time beside the batches, so that none of them waits for what a store, a check or a commit takes."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Generic, TypeVar

Found = TypeVar("Found")
Run = Callable[[Callable[[], None]], None]


class Worker:
    """A thread that does one piece of work after the other; the end of the process does not wait for it.

    Not a thread for each: their memory would come from one arena of malloc's after the other, and stay in all of them.
    """

    def __init__(self, name: str) -> None:
        self._works: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=_do_all, args=(self._works,), name=name, daemon=True)

    def __call__(self, work: Callable[[], None]) -> None:
        if not self._thread.is_alive():
            self._thread.start()
        self._works.put(work)

    def close(self, seconds: float) -> None:
        """Let it end what it was given, for so long: a thread that Python stops amid machine code may take all down."""
        if self._thread.is_alive():
            self._works.put(None)
            self._thread.join(seconds)


def _do_all(works: "SimpleQueue[Callable[[], None] | None]") -> None:
    while (work := works.get()) is not None:
        work()
        del work  # a name for it would keep a model that is out of service


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

    def wait(self) -> None:
        """Wait until the call has ended, if there is one; its answer is still to be taken."""
        if self._answer is not None:
            wait([self._answer])

    def take(self) -> Found | None:
        """What the call returned, once; None while there is nothing. Raises what it raised."""
        return self.result() if self._answer is not None and self._answer.done() else None

    def result(self) -> Found:
        """What the call returned, once, waited for. Raises what it raised, and ValueError where nothing was started."""
        answer, self._answer = self._answer, None
        if answer is None:
            raise ValueError("no call was started")
        return answer.result()


def _do(call: Callable[[], Found], answer: Future[Found]) -> None:
    try:
        answer.set_result(call())
    except BaseException as error:  # noqa: BLE001  # raised where the answer is taken
        answer.set_exception(error)
