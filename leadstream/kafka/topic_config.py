"""Settings of topics as the brokers report them, where this account may ask."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in its __all__
    AdminClient,
    ConfigResource,
)

from leadstream.kafka.config import producer_config
from leadstream.kafka.health import is_mock
from leadstream.log import SILENT
from leadstream.settings import Settings

ASK_SECONDS = 5.0
# librdkafka's own; every MessageSet of several records stays below it.
BATCH_SIZE = 1_000_000
# Of a batch and its one record, and of each header, in the worst case.
RECORD_OVERHEAD = 100
HEADER_OVERHEAD = 6
MIN_RECORD_BYTES = 1_024

_OF_PRODUCERS = ("transaction", "delivery.report", "on_delivery", "logger", "error_cb")

TopicConfigs = dict[str, dict[str, str]]


def read_topic_configs(config: Mapping[str, Any], topics: Iterable[str]) -> TopicConfigs:
    """Return the settings of these topics; one that the brokers do not report is left out.

    The question needs the permission DescribeConfigs, which not every account has.
    """
    wanted = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
    if not wanted:
        return {}
    admin = AdminClient(
        {key: value for key, value in config.items() if not key.startswith(_OF_PRODUCERS)},
        logger=SILENT,
    )
    found: TopicConfigs = {}
    try:
        # A request that waits for a broker can abort the process once it comes back (librdkafka).
        cluster = admin.list_topics(timeout=ASK_SECONDS)
    except KafkaException:
        return found
    if is_mock(cluster):
        return found
    asked = admin.describe_configs(wanted, request_timeout=ASK_SECONDS)
    for resource, future in asked.items():
        try:
            entries = future.result(ASK_SECONDS + 1)
        except (KafkaException, FutureTimeout):
            continue
        found[resource.name] = {
            name: entry.value for name, entry in entries.items() if entry.value is not None
        }
    return found


def record_limits(settings: Settings, *topics: str) -> "RecordLimits":
    """Return the limits of topics that a producer with these settings writes to."""
    return RecordLimits(topics, int(producer_config(settings)["message.max.bytes"]))


def record_size(
    key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]] | None
) -> int:
    """Return an upper bound of the bytes of a record that is alone in its batch."""
    return (
        RECORD_OVERHEAD
        + len(key or b"")
        + len(value or b"")
        + sum(
            len(name.encode()) + len(data or b"") + HEADER_OVERHEAD for name, data in headers or ()
        )
    )


class RecordLimits:
    """The largest record that each topic accepts, and which topics need keys.

    `topics` are those to ask about. Without an answer, a limit is what the client accepts, until a
    refusal shows that it is lower.
    """

    def __init__(
        self,
        topics: Iterable[str] = (),
        client_bytes: int = BATCH_SIZE,
        read: Callable[[Mapping[str, Any], Iterable[str]], TopicConfigs] = read_topic_configs,
    ) -> None:
        self._topics = tuple(topics)
        self._client_bytes = client_bytes
        self._read = read
        self._limits: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        self._keyed: frozenset[str] = frozenset()
        self._refused_keyless: set[str] = set()

    def max_bytes(self, topic: str) -> int:
        """Return the largest `record_size` that a topic accepts."""
        return min(self._client_bytes, self._limits.get(topic, self._client_bytes))

    def needs_key(self, topic: str) -> bool:
        """Return whether a topic refuses records without a key."""
        return topic in self._keyed or topic in self._refused_keyless

    def batch_bytes(self) -> int:
        """Return the most bytes of several records together that every topic accepts."""
        return max(1, min([BATCH_SIZE, *(n - RECORD_OVERHEAD for n in self._limits.values())]))

    def update(self, config: Mapping[str, Any]) -> None:
        """Ask the brokers; a limit that does not explain a refusal is halved."""
        configs = self._read(config, self._topics)
        self._keyed = frozenset(
            topic
            for topic, found in configs.items()
            if "compact" in found.get("cleanup.policy", "")
        )
        for topic in self._topics:
            known = int(configs.get(topic, {}).get("max.message.bytes", 0)) or None
            refused = self._refused.pop(topic, None)
            limit = known or self._limits.get(topic)
            if refused is not None and (limit is None or refused <= limit):
                before = self._limits.get(topic, refused)
                limit = max(MIN_RECORD_BYTES, min(refused, before) // 2)
            if limit is not None:
                self._limits[topic] = limit

    def refused_keyless(self, topic: str) -> None:
        """Note that the brokers refused a record because it has no key."""
        self._refused_keyless.add(topic)

    def refused(self, topic: str, size: int) -> None:
        """Note that the brokers refused a batch of `size` bytes as too large."""
        self._refused[topic] = self._refused.get(topic, 0) + size
