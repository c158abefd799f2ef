"""What the verbs beside `run` that go on until they are stopped tell of their health: /healthz, /readyz, the log."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import Counter

    from consumer.status import Status
    from leadstream.errors import Transient
    from leadstream.log import Logger


class Health:
    """Whether the loop turns, and what holds it back: one line for each trouble, however often it is met."""

    def __init__(self, verb: str, status: "Status", held: "Counter", logger: "Logger") -> None:
        self._verb = verb
        self._status = status
        self._counter = held
        self._logger = logger
        self._held: str | None = None

    def beat(self) -> None:
        """The loop has turned."""
        self._status.beat()

    def held(self, trouble: "Transient") -> None:
        """A dependency does not answer; nothing is lost, and it is tried again."""
        self._counter.labels(trouble.dependency).inc()
        self._status.trouble(trouble.dependency, trouble.detail)
        if self._held != trouble.dependency:
            self._logger.warning(f"{self._verb}.held", dependency=trouble.dependency, detail=trouble.detail)
        self._held = trouble.dependency

    def resumed(self) -> None:
        """The loop does its work again."""
        self._status.well()
        self._logger.info(f"{self._verb}.resumed", dependency=self._held)
        self._held = None
