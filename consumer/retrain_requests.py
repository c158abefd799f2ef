"""Requests for trainings, and the steps after one: a log line, a count and an event for each."""

import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from prometheus_client import Counter

from leadstream.errors import Transient, UserError
from leadstream.kafka.config import config_error, producer_config
from leadstream.kafka.health import describe_error
from leadstream.log import Logger, client_logger
from leadstream.settings import Settings
from models.monitor.triggers import InService, Trigger, parse_in_service
from models.serve.scorer import Model
from schemas.codec import Writer
from schemas.registry import Registry

DELIVERY_SECONDS = 10.0


class RetrainEvents:
    """A sender of the events of one process, each with an acknowledgment of its own."""

    def __init__(self, settings: Settings, registry: Registry | None, verb: str) -> None:
        config = {**producer_config(settings), "message.timeout.ms": round(DELIVERY_SECONDS * 1000)}
        try:
            self._producer = Producer(config, logger=client_logger())
        except KafkaException as error:
            raise config_error(error) from None
        self._topic = settings.topics.retrain_requests
        self._writer = Writer("RetrainRequested", registry, self._topic)
        self._by = f"leadstream {verb} on {socket.gethostname()}"

    def send(self, key: str, record: Mapping[str, Any]) -> None:
        """Send one event. Raises Transient if the brokers do not acknowledge it."""
        failures: list[str] = []

        def report(error: KafkaError | None, _message: object) -> None:
            failures.extend([describe_error(error, "Write", self._topic)] if error else [])

        value = self._writer.encode({**record, "requested_by": self._by})
        self._producer.produce(self._topic, value, key.encode(), on_delivery=report)
        if self._producer.flush(DELIVERY_SECONDS + 1) or failures:
            self._producer.purge()
            raise Transient(
                "brokers",
                f"an event about a training was not acknowledged: {(failures or ['too late'])[0]}",
            )

    def close(self) -> None:
        """Discard what is not acknowledged."""
        self._producer.purge()


class RetrainRequests:
    """A sender of requests, each trigger of a version once in this process.

    The topic is compacted by version and trigger, so that several processes leave one request.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry | None,
        *,
        verb: str,
        counter: Counter,
        logger: Logger,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._events = RetrainEvents(settings, registry, verb)
        self._counter = counter
        # A counter that starts at its first event has no increase that an alert could see.
        for trigger in Trigger:
            counter.labels(trigger.value)
        self._logger = logger
        self._clock_ms = clock_ms
        self._reported: set[tuple[str, Trigger]] = set()
        self._sent: set[tuple[str, Trigger]] = set()

    def request(
        self, service: InService, due: Mapping[Trigger, str], *, publish: bool = True
    ) -> None:
        """Request the trainings that were not requested before.

        Without `publish` they appear only in the log and the metric. Raises Transient if the
        brokers do not acknowledge the event; the next call sends it again.
        """
        for trigger, detail in due.items():
            key = (service.version, trigger)
            if key not in self._reported:
                self._reported.add(key)
                self._counter.labels(trigger.value).inc()
                self._logger.warning(
                    "retrain.requested",
                    version=service.version,
                    trigger=trigger.value,
                    detail=detail,
                )
            if publish and key not in self._sent:
                record = {
                    "model_version": service.version,
                    "model_sha256": service.sha256,
                    "trigger": trigger.value,
                    "detail": detail,
                    "requested_at": self._clock_ms(),
                }
                self._events.send(f"{service.version}:{trigger.value}", record)
                self._sent.add(key)

    def close(self) -> None:
        """Discard what is not acknowledged."""
        self._events.close()


def on_drift(
    settings: Settings, registry: Registry | None, *, counter: Counter, logger: Logger
) -> Callable[[Model, str], None]:
    """Return what `run` calls when a drift alarm begins: it requests a training for the version.

    The request is sent from a thread with its own client. It is not part of a batch, and a topic
    that accepts nothing must not hold batches back.
    """
    requests: list[RetrainRequests] = []
    lock = threading.Lock()
    counter.labels(Trigger.DRIFT.value)

    def send(model: Model, sentence: str) -> None:
        with lock:
            try:
                if not requests:
                    requests.append(
                        RetrainRequests(
                            settings, registry, verb="run", counter=counter, logger=logger
                        )
                    )
                requests[0].request(
                    parse_in_service(model.manifest, model.manifest), {Trigger.DRIFT: sentence}
                )
            except (Transient, UserError) as trouble:
                logger.warning("retrain.unsent", version=model.version, detail=str(trouble))

    def ask(model: Model, sentence: str) -> None:
        threading.Thread(target=send, args=(model, sentence), name="retrain", daemon=True).start()

    return ask
