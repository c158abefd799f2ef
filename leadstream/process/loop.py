"""A loop over batches for the verbs beside `run`: what may pass holds the offsets, and is tried again."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from leadstream.backoff import Backoff
from leadstream.budgets import POLL_SECONDS
from leadstream.errors import Transient
from leadstream.kafka.batch import Batch
from leadstream.kafka.source import Source


class Watcher(Protocol):
    """Who is told what the loop does."""

    def beat(self) -> None:
        """The loop has turned."""

    def held(self, trouble: Transient) -> None:
        """A dependency does not answer; nothing is lost, and it is tried again."""

    def resumed(self) -> None:
        """The loop does its work again."""


class Loop:
    """Turns until it is asked to stop; one batch at a time, in one thread."""

    def __init__(self, watcher: Watcher, clock: Callable[[], float] = time.monotonic) -> None:
        self._watcher = watcher
        self._stop = threading.Event()
        self._held = False
        self._backoff = Backoff(clock)

    def stop(self) -> None:
        """End the loop once the batch at hand is done."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether the loop was asked to end."""
        return self._stop.is_set()

    def run(
        self,
        source: Source,
        work: Callable[[Batch], None],
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Do `work` to each batch, once `ready` says nothing. Returns when stopped; raises what is not Transient."""
        while not self._stop.is_set():
            self._watcher.beat()
            batch = None
            try:
                ready()
                batch = source.poll(POLL_SECONDS)
                if batch is not None:
                    work(batch)
                    self._resumed()
            except Transient as trouble:
                self._hold(source, batch, trouble)

    def _hold(self, source: Source, batch: Batch | None, trouble: Transient) -> None:
        """Stand where the batch began, stay in the group, and wait a little longer each time."""
        self._watcher.held(trouble)
        self._held = True
        if batch is not None:
            source.rewind(batch)
        for seconds in self._backoff.pauses(self._stop.is_set):
            self._watcher.beat()
            source.idle(seconds)

    def _resumed(self) -> None:
        if self._held:
            self._watcher.resumed()
            self._held = False
            self._backoff.reset()
