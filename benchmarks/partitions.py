"""How a group shares many partitions, and what it costs when a member comes, goes, or dies.

    python -m benchmarks.partitions [--partitions 100] [--most 16] [--json PATH]

A real broker, the consumer's own source (`leadstream/kafka/source.py`) and its client's settings;
members are threads that read an empty topic and score nothing: what is measured is the group. With
the classic protocol (cooperative, sticky) and with KIP-848
(`LEADSTREAM_KAFKA_GROUP_PROTOCOL=consumer`), each with its defaults. Who owns what is looked at
each 5 ms.
"""

import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

# not in __all__
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from benchmarks.figures import FigureRow, Spread, arguments, finish, main_of, say
from leadstream.errors import UserError
from leadstream.kafka.batch import Partition
from leadstream.kafka.config import consumer_config
from leadstream.kafka.source import KafkaSource
from leadstream.local.broker import local_broker
from leadstream.log import SILENT
from leadstream.settings import load_settings

PROTOCOLS = ("classic", "consumer")
LOOK_SECONDS, QUIET_SECONDS = 0.005, 90.0


@dataclass(frozen=True, slots=True)
class Moved:
    """What a change of the members cost: until every partition had one owner and nobody more than
    one too many.

    `alone` is the longest that a partition had no owner, `moved` how many have another owner than
    before.
    """

    seconds: float
    alone: float
    moved: int
    minimum: int
    largest: int


class GroupMember:
    """A process of the group, but that it is a thread and does nothing with what it reads."""

    def __init__(self, config: dict[str, object], topic: str) -> None:
        self.source = KafkaSource(config, [topic], max_records=1, linger_ms=0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        while not self._over.is_set():
            self.source.poll(0.05)
        self.source.close()

    def leave(self) -> None:
        """Give the partitions away, and return."""
        self._over.set()
        self._thread.join()


class MemberGroup:
    """Members of one group, and who owns what."""

    def __init__(self, bootstrap: str, topic: str, partitions: int, protocol: str) -> None:
        names = {
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "LEADSTREAM_GROUP_ID": f"bench-{uuid.uuid4().hex[:8]}",
        }
        settings = load_settings(names | {"LEADSTREAM_KAFKA_GROUP_PROTOCOL": protocol}, None)
        self._config = consumer_config(settings) | {"logger": SILENT}
        self._topic, self._partitions = topic, partitions
        self.members: list[GroupMember] = []

    def join(self, count: int) -> None:
        """So many more members."""
        self.members += [GroupMember(self._config, self._topic) for _ in range(count)]

    def owners(self) -> dict[Partition, int]:
        """The member that owns each partition."""
        return {
            place: i for i, member in enumerate(self.members) for place in member.source.assigned()
        }

    def during(self, change: Callable[[], None]) -> Moved:
        """Change the members, and watch until all is shared out evenly again."""
        before = {place: self.members[i] for place, i in self.owners().items()}
        began = time.monotonic()
        changing = threading.Thread(target=change, daemon=True)
        changing.start()
        gone: dict[Partition, float] = {}
        alone, since = 0.0, None
        while True:
            now, owners = time.monotonic(), self.owners()
            for place in before.keys() - owners.keys():
                gone.setdefault(place, now)
            for place in gone.keys() & owners.keys():
                alone = max(alone, now - gone.pop(place))
            shares = Counter(owners.values())
            counts = [shares[i] for i in range(len(self.members))]
            even = (
                not changing.is_alive()
                and sum(counts) == self._partitions
                and max(counts) - min(counts) <= 1
            )
            since = (since or now) if even else None
            # It must stay so: on the way there it may be even for a moment.
            if since and now - since > 1.0:
                moved = sum(self.members[i] is not before.get(place) for place, i in owners.items())
                return Moved(since - began, alone, moved, min(counts), max(counts))
            if now - began > QUIET_SECONDS:
                raise UserError(f"not shared evenly after {QUIET_SECONDS:.0f} s: {sorted(counts)}")
            time.sleep(LOOK_SECONDS)

    def leave(self) -> None:
        """The last member goes in order."""
        self.members.pop().leave()

    def end(self) -> None:
        """All go."""
        for member in self.members:
            member.leave()


def main() -> int:
    """Run the benchmark; returns the exit code."""
    options = arguments(
        "How a group shares many partitions.",
        partitions=(100, "partitions of the topic"),
        most=(16, "members at most"),
    )

    def measure() -> int:
        sections, runs = [], {}
        with local_broker(say=say) as broker:
            admin = AdminClient({"bootstrap.servers": broker.bootstrap}, logger=SILENT)
            topic = f"bench-changes-{uuid.uuid4().hex[:8]}"
            for future in admin.create_topics([NewTopic(topic, options.partitions, 1)]).values():
                future.result(60)
            for protocol in PROTOCOLS:
                rows, members = [], 1
                while members <= options.most:
                    say(f"{protocol}, {members} members")
                    run = measured(broker.bootstrap, topic, options.partitions, protocol, members)
                    runs[f"{protocol}, {members}"] = run
                    rows += rows_of(protocol, members, run)
                    members *= 2
                sections.append(rows)
            for future in admin.delete_topics([topic]).values():
                future.result(60)
        title = f"{options.partitions} partitions, one run each; both protocols with their defaults"
        return finish(title, options.json, *sections, runs=runs)

    return main_of(measure)


def measured(
    bootstrap: str, topic: str, partitions: int, protocol: str, members: int
) -> dict[str, Moved]:
    """So many members at once, then one more, then one less."""
    group = MemberGroup(bootstrap, topic, partitions, protocol)
    try:
        return {
            "all join": group.during(lambda: group.join(members)),
            "one more": group.during(lambda: group.join(1)),
            "one less": group.during(group.leave),
        }
    finally:
        group.end()


def rows_of(protocol: str, members: int, run: dict[str, Moved]) -> list[FigureRow]:
    """The lines of a group of one size."""
    joined, more, less = run["all join"], run["one more"], run["one less"]
    figures = {
        "partitions of the busiest": (joined.largest, ",.0f"),
        "all join, s": (joined.seconds, ".2f"),
        "one more joins, s": (more.seconds, ".2f"),
        "then moved": (more.moved, ",.0f"),
        "then without owner, s": (more.alone, ".2f"),
        "one leaves, s": (less.seconds, ".2f"),
        "then moved, of those": (less.moved, ",.0f"),
    }
    return [
        FigureRow(f"{protocol}, {members}: {name}", Spread.from_values([value]), form)
        for name, (value, form) in figures.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
