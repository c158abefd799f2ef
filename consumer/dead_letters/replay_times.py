"""The timestamp of a replayed record: its original's, if the topic accepts and keeps it."""

import time
from collections.abc import Callable

from leadstream.kafka.topic_config import TopicConfigs

# Kafka's defaults, for brokers that do not report the settings of a topic.
RETENTION_MS, AFTER_MAX_MS = 7 * 86_400_000, 3_600_000
# Of the retention: a record that is older could be deleted before it is read.
SHARE = 0.9


class ReplayTimes:
    """The rule by which a replayed record keeps its original's timestamp, in milliseconds UTC."""

    def __init__(
        self,
        configs: TopicConfigs,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._configs = configs
        self._clock_ms = clock_ms

    def keeps(self, topic: str, timestamp: int) -> bool:
        """Return whether a topic accepts this timestamp, and keeps the record long enough."""
        found = self._configs.get(topic, {})
        age = self._clock_ms() - timestamp
        limits = [int(found.get("message.timestamp.before.max.ms", 2**63 - 1))]
        retention = int(found.get("retention.ms", RETENTION_MS))
        if retention >= 0 and "delete" in found.get("cleanup.policy", "delete"):
            limits.append(int(retention * SHARE))
        return -int(found.get("message.timestamp.after.max.ms", AFTER_MAX_MS)) < age < min(limits)
