"""A loop over batches, for sink and translate: process each batch, and retry after a Transient."""

import threading
from collections.abc import Callable

from leadstream.budgets import POLL_SECONDS
from leadstream.errors import Transient
from leadstream.kafka.batch import Batch
from leadstream.kafka.source import Source
from leadstream.process.service import Health


class BatchLoop:
    """A loop that ends when it is stopped: one batch at a time, in one thread.

    `look` is called each time that the loop turns.
    """

    def __init__(self, health: Health, look: Callable[[], None] = lambda: None) -> None:
        self._health = health
        self._look = look
        self._stop = threading.Event()

    def stop(self) -> None:
        """End the loop once the current batch is done."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Return whether the loop was asked to end."""
        return self._stop.is_set()

    def run(
        self,
        source: Source,
        process: Callable[[Batch], None],
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Process each batch of the source, after `ready` returned without an error.

        After a Transient the loop rewinds the batch, waits as a member of its group, and tries
        again. Returns when stopped; raises every other error.
        """
        while not self._stop.is_set():
            self._health.beat()
            self._look()
            batch = None
            try:
                ready()
                batch = source.poll(POLL_SECONDS)
                if batch is not None:
                    process(batch)
                    self._health.resumed()
            except Transient as trouble:
                if batch is not None:
                    source.rewind(batch)
                self._health.pause(trouble, self._stop.is_set, source.idle)
