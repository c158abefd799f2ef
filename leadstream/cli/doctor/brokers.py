"""What can be wrong with the brokers: how they are reached, the topics, the group's place in them, what they hold."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from leadstream.cli.doctor.cluster import Cluster, Place, open_cluster
from leadstream.cli.doctor.findings import Finding, lasting, mend, note, ok

if TYPE_CHECKING:
    from leadstream.kafka.batch import Message
    from leadstream.settings import Settings

# Clocks that are kept by NTP differ by milliseconds; a network and a busy machine add some.
SKEW_SECONDS = 5.0
NEWEST = 20
_TOPICS = 'kafka-topics.sh --bootstrap-server "$KAFKA_BOOTSTRAP_SERVERS" --alter --topic'


def check(settings: "Settings", processes: int | None) -> Iterator[Finding]:
    """Everything that the brokers know; raises UserError where they cannot be reached."""
    from leadstream.settings import Delivery

    cluster = open_cluster(settings)
    yield ok("brokers", f"{len(cluster.brokers)} answer: {', '.join(cluster.brokers)}")
    if settings.delivery is Delivery.EXACTLY_ONCE:
        yield _delivery(cluster)
    yield from _topics(settings)
    if settings.topics.lead_changes not in cluster.partitions:
        return
    yield _shares(cluster, processes)
    places = cluster.places(settings.topics.lead_changes)
    yield from _unread(cluster, places)
    newest = cluster.read(
        [place.at(max(place.first, place.end - NEWEST)) for place in places if place.end]
    )
    yield from _readable(settings, newest)
    yield from _clock(newest, time.time())


def _delivery(cluster: Cluster) -> Finding:
    """Whether transactions can begin; the id that is used for it stays known to the brokers for some days."""
    trouble = cluster.transactions()
    if trouble is None:
        return ok("delivery", "exactly once: the brokers have transactions")
    return mend(
        "delivery",
        f"no transaction can begin ({trouble}): on fewer than three brokers "
        "transaction.state.log.replication.factor and transaction.state.log.min.isr must be at most their number; "
        "this user needs the transactional ids that begin with LEADSTREAM_GROUP_ID; or set "
        "LEADSTREAM_DELIVERY=at-least-once",
    )


def _topics(settings: "Settings") -> Iterator[Finding]:
    from leadstream.cli.topics import find_differences

    differences = find_differences(settings)
    if not differences:
        yield ok("topics", "all are there, as the contract says")
    if missing := sorted(each.topic for each in differences if each.is_now is None):
        yield mend(
            "topics",
            f"missing: {', '.join(missing)}; `leadstream topics create` creates what is missing",
        )
    for each in differences:
        if each.is_now is not None:
            yield (note if each.longer else mend)("topics", f"{each.sentence()}: {each.mend}")


def _shares(cluster: Cluster, processes: int | None) -> Finding:
    topic = cluster.settings.topics.lead_changes
    partitions, members = cluster.partitions[topic], cluster.members()
    wanted = processes or members
    if wanted > partitions:
        return mend(
            "processes",
            f"{topic} has {partitions} partition{'s' * (partitions > 1)} for {wanted} processes, "
            f"so {wanted - partitions} of them would get no changes: run fewer, or, while nothing is sent or unread, "
            f"`{_TOPICS} {topic} --partitions {wanted}`",
        )
    running = (
        f"{members} of group {cluster.settings.group_id} now" if members else "none is running"
    )
    return ok("processes", f"up to {partitions} can share the partitions of {topic}; {running}")


def _unread(cluster: Cluster, places: list[Place]) -> Iterator[Finding]:
    """Whether changes were deleted before the group read them, or soon will be."""
    topic, began = (
        cluster.settings.topics.lead_changes,
        [p for p in places if p.committed is not None],
    )
    if not began:
        yield ok(
            "retention",
            f"group {cluster.settings.group_id} has read nothing yet and begins with the oldest change",
        )
        return
    kept = cluster.retention_seconds(topic)
    if lost := sum(max(0, place.first - place.stands) for place in began):
        yield mend(
            "retention",
            f"up to {lost:,} changes of {topic} were deleted before the group read them: nobody did for longer than "
            f"the topic keeps them ({lasting(kept)}); start `leadstream run`, and `leadstream rescore --all` has every "
            "lead of Postgres scored anew; a larger retention.ms bears longer downtimes",
        )
        return
    first = cluster.read([p.at(p.stands) for p in began if p.stands < p.end], most=1)
    age = max(
        (
            time.time() - message.timestamp()[1] / 1000
            for message in first
            if message.timestamp()[0]
        ),
        default=0.0,
    )
    if age > kept / 2:
        yield mend(
            "retention",
            f"the oldest unread change of {topic} is {lasting(age)} old, and the topic keeps changes for "
            f"{lasting(kept)}: start `leadstream run` before it is deleted, or raise retention.ms",
        )
    else:
        yield ok(
            "retention",
            f"a consumer may be down for {lasting(kept)} before changes are deleted unread",
        )


def _readable(settings: "Settings", newest: Iterable["Message"]) -> Iterator[Finding]:
    """Whether the newest changes are in a framing and of a schema that the consumer can read."""
    from contextlib import closing, nullcontext

    from leadstream.errors import Poison, Reason, Transient
    from schemas.codec import Reader
    from schemas.registry import Registry

    values = [value for message in newest if (value := message.value()) is not None]
    if not values:
        yield ok("changes", f"{settings.topics.lead_changes} holds none yet")
        return
    url = settings.schema_registry_url
    troubles: Counter[tuple[Reason, str]] = Counter()
    with closing(Registry(url)) if url else nullcontext() as registry:
        reader = Reader("LeadChanged", registry)
        for value in values:
            try:
                reader.decode(value)
            except Poison as poison:
                troubles[poison.reason, poison.detail] += 1
            except Transient as trouble:
                yield mend(
                    "changes",
                    f"they are not read while the {trouble.dependency} fails: {trouble.detail}",
                )
                return
    if not troubles:
        yield ok("changes", f"the newest {len(values)} can be read")
    # A few are what dead letters are for; more than the limit would stop the consumer.
    verdict = mend if troubles.total() > settings.dead_letter_max_ratio * len(values) else note
    for (reason, detail), count in troubles.most_common(3):
        yield verdict(
            "changes",
            f"{count} of the newest {len(values)} cannot be read: {detail} {_MENDS.get(reason, '')}".strip(),
        )


_MENDS = {
    "UNKNOWN_SCHEMA": "Set SCHEMA_REGISTRY_URL to the registry that their sender uses.",
    "UNKNOWN_FRAMING": "Send LeadChanged in Avro: `leadstream import` or `translate` makes it of what you have.",
    "DECODE_FAILED": "Mend their sender; `leadstream dead-letters show` says where a value fails.",
}


def _clock(newest: Iterable["Message"], now: float) -> Iterator[Finding]:
    """Whether changes are sent in the future: both clocks may be wrong, and brokers refuse what is an hour ahead."""
    ahead = max(
        (message.timestamp()[1] / 1000 - now for message in newest if message.timestamp()[0]),
        default=0.0,
    )
    if ahead > SKEW_SECONDS:
        yield mend(
            "clock",
            f"the newest change was sent {lasting(ahead)} after now by this machine's clock: this one or the sender's "
            "is wrong, and scores are as of the time that a change says; keep both by NTP",
        )
