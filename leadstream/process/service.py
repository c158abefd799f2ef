"""The composition root of all services: run, relay, sink, follow, translate, history, and learn.

`serving` is the one place that closes what a service opened with `ServiceContext.open`, in reverse
order. docs/explanation/threads.md lists all threads and process-wide effects, and where each ends.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeVar

from prometheus_client import Counter

from leadstream import __version__, log
from leadstream.backoff import Backoff
from leadstream.errors import Transient
from leadstream.process.bounded_server import host_in_url
from leadstream.process.http import Endpoints
from leadstream.process.signals import Stoppable, stop_on_signals
from leadstream.process.status import Status
from leadstream.settings import Settings, unfit_limits, unknown_variables


class Closable(Protocol):
    """A resource that a service closes at its end."""

    def close(self) -> None:
        """Release it."""


Resource = TypeVar("Resource", bound=Closable)


class ServiceContext:
    """The surroundings of a service while it runs: log, status, endpoints, and what it opened."""

    def __init__(self, settings: Settings, logger: log.Logger) -> None:
        self.settings = settings
        self.logger = logger
        self.status = Status()
        self.resources = ExitStack()
        self._url = ""

    def open(self, resource: Resource) -> Resource:
        """Return the resource, and close it when the service ends."""
        self.resources.callback(resource.close)
        return resource

    def listen(
        self,
        exposed: Callable[[], bytes],
        model: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> None:
        """Serve the HTTP endpoints: `exposed` returns the metrics, `model` what /model shows.

        Raises SettingsError if the address cannot be used.
        """
        endpoints = self.open(
            Endpoints(
                self.settings.http_host,
                self.settings.http_port,
                status=self.status,
                exposed=exposed,
                model=model,
            )
        )
        self._url = f"http://{host_in_url(self.settings.http_host)}:{endpoints.port}"

    def stop_by_signals(self, loop: Stoppable) -> None:
        """Let SIGTERM and SIGINT stop the loop from now on."""
        stop_on_signals(loop, self.logger)

    def started(self, **fields: object) -> None:
        """Write the line `started`."""
        self.logger.info("started", version=__version__, **fields, http=self._url)


@contextmanager
def serving(settings: Settings, name: str) -> Iterator[ServiceContext]:
    """Set up the log, warn of unknown or unfit settings, and close all resources after the block.

    `name` is that of the verb, which every line of the log has.

    The line `stopped` is written only if the block ends without an error.
    """
    log.configure(settings, name)
    context = ServiceContext(settings, log.get_logger())
    if settings.env_file is not None:
        context.logger.info("settings.file", path=settings.env_file)
    for sentence in unknown_variables():
        context.logger.warning("settings.unknown", detail=sentence)
    for sentence in unfit_limits(settings.kafka):
        context.logger.warning("settings.unfit", detail=sentence)
    with context.resources:
        yield context
    context.logger.info("stopped")


class Health:
    """Reports of a loop: that it turns, and which dependency holds it back.

    A loop that is held back writes one line for each dependency, however often it fails, and waits
    longer after each failure. `name` begins the names of log events.
    """

    def __init__(
        self,
        name: str,
        status: Status,
        logger: log.Logger,
        *,
        counter: Counter | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._name = name
        self._status = status
        self._logger = logger
        self._counter = counter
        self._backoff = backoff or Backoff()
        self._held: str | None = None

    def beat(self) -> None:
        """Report that the loop turned."""
        self._status.beat()

    def pause(
        self,
        trouble: Transient,
        stopped: Callable[[], bool],
        wait: Callable[[float], object],
    ) -> None:
        """Report a dependency that does not answer, and wait before the next attempt.

        `wait` is called with short waits in seconds, until the delay is over or `stopped`.
        """
        if self._counter is not None:
            self._counter.labels(trouble.dependency).inc()
        self._status.trouble(trouble.dependency, trouble.detail)
        if self._held != trouble.dependency:
            self._logger.warning(
                f"{self._name}.held", dependency=trouble.dependency, detail=trouble.detail
            )
        self._held = trouble.dependency
        for seconds in self._backoff.pauses(stopped):
            self._status.beat()
            wait(seconds)

    def resumed(self) -> None:
        """Report that the loop works again; do nothing if it was not held back."""
        if self._held is None:
            return
        self._status.well()
        self._logger.info(f"{self._name}.resumed", dependency=self._held)
        self._held = None
        self._backoff.reset()
