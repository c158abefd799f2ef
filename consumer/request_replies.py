"""The results of rescore requests, waited for outside of any group by those who asked."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from leadstream.kafka.connection_check import ConnectionCheck
from leadstream.kafka.topic_reader import TopicReader
from leadstream.log import configure
from leadstream.settings import Settings
from schemas.codec import Reader
from schemas.registry import Registry


class Answers:
    """Stands at the end of the results topic from the moment it is made: make it before a request is sent."""

    def __init__(self, log: TopicReader, reader: Reader) -> None:
        self._log = log
        self._reader = reader
        self._starts = {partition: log.bounds(partition)[1] for partition in log.partitions()}

    def of(self, request_ids: Collection[str], seconds: float) -> Iterator[dict[str, Any]]:
        """The RescoreResults of these requests, one for each, as they are committed; ends with the last, or in time.

        Raises Transient where brokers or registry fail, and Poison where an answer cannot be read.
        """
        missing = {request_id.encode() for request_id in request_ids}
        for message in self._log.follow(self._starts, seconds):
            key, value = message.key(), message.value()
            if key in missing and value is not None:
                missing.remove(key)
                yield self._reader.decode(value)
                if not missing:
                    return


@contextmanager
def answering(settings: Settings) -> Iterator[Answers]:
    """Wait for answers on the brokers of the settings. Raises as TopicReader does."""
    configure(settings)
    ConnectionCheck(settings).check()
    registry = Registry(settings.schema_registry_url) if settings.schema_registry_url else None
    log = TopicReader(settings, settings.topics.rescore_results)
    try:
        yield Answers(log, Reader("RescoreResult", registry))
    finally:
        log.close()
        if registry is not None:
            registry.close()
