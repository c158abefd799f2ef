"""Replies to rescore requests, read by the requester outside of any group."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from leadstream.kafka.connection_check import ConnectionCheck
from leadstream.kafka.topic_reader import TopicReader
from leadstream.log import configure
from leadstream.settings import Settings
from schemas.codec import Reader
from schemas.registry import Registry


class RequestReplies:
    """Replies that arrive after this object was made: make it before a request is sent."""

    def __init__(self, topic: TopicReader, decoder: Reader) -> None:
        self._topic = topic
        self._decoder = decoder
        self._starts = {partition: topic.bounds(partition)[1] for partition in topic.partitions()}

    def receive(self, request_ids: Collection[str], seconds: float) -> Iterator[dict[str, Any]]:
        """Yield the RescoreResult of each request once it is committed, for at most `seconds`.

        Raises Transient if the brokers or the registry fail, and Poison for an unreadable reply.
        """
        missing = {request_id.encode() for request_id in request_ids}
        for message in self._topic.follow(self._starts, seconds):
            key, value = message.key(), message.value()
            if key in missing and value is not None:
                missing.remove(key)
                yield self._decoder.decode(value)
                if not missing:
                    return


@contextmanager
def receiving_replies(settings: Settings) -> Iterator[RequestReplies]:
    """Receive replies from the brokers of the settings. Raises as TopicReader does."""
    configure(settings)
    ConnectionCheck(settings).check()
    registry = Registry(settings.schema_registry_url) if settings.schema_registry_url else None
    topic = TopicReader(settings, settings.topics.rescore_results)
    try:
        yield RequestReplies(topic, Reader("RescoreResult", registry))
    finally:
        topic.close()
        if registry is not None:
            registry.close()
