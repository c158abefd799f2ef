"""The checks of the brokers: addresses, topics, offsets of the group, and the newest changes."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from leadstream.cli.doctor.cluster import DoctorCluster, PartitionState, open_cluster
from leadstream.cli.doctor.findings import Finding, fail, format_duration, note, ok
from leadstream.cli.service import group_id_for

if TYPE_CHECKING:
    from leadstream.kafka.batch import Message
    from leadstream.settings import Settings
    from schemas.codec import Reader

# NTP keeps clocks within milliseconds; a network and a busy machine add some.
SKEW_SECONDS = 5.0
NEWEST = 20
_TOPICS = 'kafka-topics.sh --bootstrap-server "$KAFKA_BOOTSTRAP_SERVERS" --alter --topic'


def check(settings: "Settings", processes: int | None) -> Iterator[Finding]:
    """Yield all findings about the brokers. Raises UserError if they are unreachable."""
    from leadstream.settings import Delivery

    cluster = open_cluster(settings)
    yield ok("brokers", f"{len(cluster.brokers)} answer: {', '.join(cluster.brokers)}")
    if settings.delivery is Delivery.EXACTLY_ONCE:
        yield _check_delivery(cluster)
    yield from _check_topics(settings)
    if settings.topics.lead_changes not in cluster.partitions:
        return
    yield _check_processes(cluster, processes)
    states = cluster.partition_states(settings.topics.lead_changes)
    yield from _check_retention(cluster, states)
    yield from _check_losses(cluster)
    newest = cluster.read(
        [state.at_offset(max(state.first, state.end - NEWEST)) for state in states if state.end]
    )
    yield from _check_readable(settings, newest)
    yield from _check_inputs(settings, newest)
    yield from _check_clock(newest, time.time())


def _check_delivery(cluster: DoctorCluster) -> Finding:
    """Return whether a transaction can begin. The brokers remember its id for some days."""
    failure = cluster.transactions()
    if failure is None:
        return ok("delivery", "exactly once: the brokers have transactions")
    return fail(
        "delivery",
        f"no transaction can begin ({failure}): on fewer than three brokers "
        "transaction.state.log.replication.factor and transaction.state.log.min.isr must be at "
        "most their number; this user needs the transactional ids that begin with "
        "LEADSTREAM_GROUP_ID and -run-; or set LEADSTREAM_DELIVERY=at-least-once",
    )


def _check_topics(settings: "Settings") -> Iterator[Finding]:
    from leadstream.cli.topics import find_differences

    differences = find_differences(settings)
    if not differences:
        yield ok("topics", "all exist, as the contract says")
    if missing := sorted(each.topic for each in differences if each.is_now is None):
        yield fail(
            "topics",
            f"missing: {', '.join(missing)}; `leadstream topics create` creates what is missing",
        )
    for each in differences:
        if each.is_now is not None:
            yield (note if each.longer else fail)("topics", f"{each.sentence()}: {each.fix}")


def _check_processes(cluster: DoctorCluster, processes: int | None) -> Finding:
    topic = cluster.settings.topics.lead_changes
    partitions, members = cluster.partitions[topic], cluster.members()
    wanted = processes or members
    if wanted > partitions:
        return fail(
            "processes",
            f"{topic} has {partitions} partition{'s' * (partitions > 1)} for {wanted} processes, "
            f"so {wanted - partitions} of them would get no changes: run fewer, or, while nothing "
            f"is sent or unread, `{_TOPICS} {topic} --partitions {wanted}`",
        )
    running = (
        f"{members} of group {cluster.settings.group_id} now" if members else "none is running"
    )
    return ok("processes", f"up to {partitions} can share the partitions of {topic}; {running}")


def _check_retention(cluster: DoctorCluster, states: list[PartitionState]) -> Iterator[Finding]:
    """Yield whether changes were deleted before the group read them, or soon will be."""
    topic, started = (
        cluster.settings.topics.lead_changes,
        [p for p in states if p.committed is not None],
    )
    if not started:
        yield ok(
            "retention",
            f"group {cluster.settings.group_id} has read nothing yet and starts with the oldest "
            "change",
        )
        return
    kept = cluster.retention_seconds(topic)
    if lost := sum(max(0, state.first - state.next_offset) for state in started):
        yield fail(
            "retention",
            f"up to {lost:,} changes of {topic} were deleted before the group read them: "
            "no consumer ran for longer than the topic keeps changes "
            f"({format_duration(kept)}); start `leadstream run`; then `leadstream rescore --all` "
            "scores every lead of Postgres again; a larger retention.ms allows longer downtimes",
        )
        return
    first = cluster.read(
        [p.at_offset(p.next_offset) for p in started if p.next_offset < p.end], limit=1
    )
    age = max(
        (
            time.time() - message.timestamp()[1] / 1000
            for message in first
            if message.timestamp()[0]
        ),
        default=0.0,
    )
    if age > kept / 2:
        yield fail(
            "retention",
            f"the oldest unread change of {topic} is {format_duration(age)} old, and the topic "
            f"keeps changes for {format_duration(kept)}: start `leadstream run` before it is "
            "deleted, or raise retention.ms",
        )
    else:
        yield ok(
            "retention",
            f"a consumer may be down for {format_duration(kept)} before changes are deleted unread",
        )


def _check_losses(cluster: DoctorCluster) -> Iterator[Finding]:
    """Yield the losses that running consumers noticed and nobody acknowledged."""
    from contextlib import nullcontext, suppress

    from leadstream.errors import UserError
    from leadstream.kafka.loss_acknowledgments import LossAcknowledgments

    settings = cluster.settings
    topics = settings.topics
    readers = {
        "leadstream losses": (settings.group_id, [topics.lead_changes, topics.rescore_requests]),
        "leadstream losses --of sink": (group_id_for("sink", settings), [topics.lead_predictions]),
    }
    for command, (group, read) in readers.items():
        # An account of `run` may know nothing of the sink's group.
        with suppress(UserError) if group != settings.group_id else nullcontext():
            for loss in LossAcknowledgments(settings, group, read).losses():
                yield fail(
                    "losses",
                    f"{loss.sentence()}: `leadstream rescore --all` scores every lead of Postgres "
                    f"again; then `{command} --acknowledge` ends this finding",
                )


def _check_readable(settings: "Settings", newest: Iterable["Message"]) -> Iterator[Finding]:
    """Yield whether the consumer can read the framing and the schemas of the newest changes."""
    from contextlib import closing, nullcontext

    from leadstream.errors import Poison, Reason, Transient
    from schemas.codec import Reader
    from schemas.registry import Registry

    messages = [message for message in newest if message.value() is not None]
    if not messages:
        yield ok("changes", f"{settings.topics.lead_changes} holds none yet")
        return
    url = settings.schema_registry_url
    failures: Counter[tuple[Reason, str]] = Counter()
    with closing(Registry(url)) if url else nullcontext() as registry:
        reader = Reader("LeadChanged", registry)
        for message in messages:
            try:
                _decode_change(message, reader, settings)
            except Poison as poison:
                failures[poison.reason, poison.detail] += 1
            except Transient as failure:
                yield fail(
                    "changes",
                    f"they cannot be read while the {failure.dependency} fails: {failure.detail}",
                )
                return
    if not failures:
        yield ok("changes", f"the newest {len(messages)} can be read")
    # A few bad changes become dead letters; more than the limit would stop the consumer.
    status = fail if failures.total() > settings.dead_letter_max_ratio * len(messages) else note
    for (reason, detail), count in failures.most_common(3):
        yield status(
            "changes",
            f"{count} of the newest {len(messages)} cannot be read: {detail} "
            f"{_FIXES.get(reason, '')}".strip(),
        )


def _check_inputs(settings: "Settings", newest: Iterable["Message"]) -> Iterator[Finding]:
    """Yield the inputs of the champion that none of the newest changes with a state carries."""
    from contextlib import closing, nullcontext, suppress

    from leadstream.errors import LeadstreamError
    from models.monitor.inputs import learned_inputs
    from models.registry.versions import open_registry
    from schemas.codec import Reader
    from schemas.registry import Registry

    url = settings.schema_registry_url
    states: list[dict[str, Any]] = []
    try:
        models = open_registry(settings)
        version = models.resolve()
        manifest = models.show(version) if version else {}
        with closing(Registry(url)) if url else nullcontext() as registry:
            reader = Reader("LeadChanged", registry)
            for message in newest:
                with suppress(LeadstreamError):
                    if message.value() and (lead := _decode_change(message, reader, settings)):
                        states.append(lead)
    except LeadstreamError:
        return  # other checks report it
    if len(states) < NEWEST // 2:
        return
    absent = [name for name in learned_inputs(manifest) if not any(_has(s, name) for s in states)]
    if absent:
        yield note(
            "inputs",
            f"the champion {version} reads {', '.join(absent)}; 0 of the newest {len(states)} "
            "changes carry it: send it with the changes, or train without it",
        )


def _has(state: dict[str, Any], name: str) -> bool:
    field, _, own = name.partition(".")
    return state[field].get(own) is not None if own else state[field] is not None


def _decode_change(
    message: "Message", reader: "Reader", settings: "Settings"
) -> dict[str, Any] | None:
    """Decode a change as the consumer does, and return its state. Raises Poison, Transient."""
    from functools import partial

    from leadstream.kafka.batch import read_headers
    from leadstream.settings import JsonChanges
    from schemas.json_records import decode_json, is_json

    value = message.value() or b""
    accept = settings.json_changes is JsonChanges.ACCEPT
    if is_json(value, partial(read_headers, message), accept=accept):
        record = decode_json("LeadChanged", value)
    else:
        record = reader.decode(value)
    lead: dict[str, Any] | None = record["lead"]
    return lead


_FIXES = {
    "UNKNOWN_SCHEMA": "Set SCHEMA_REGISTRY_URL to the registry of the producer.",
    "UNKNOWN_FRAMING": "`leadstream import` or `translate` can convert other formats.",
    "INVALID_EVENT": "Fix the producer.",
    "DECODE_FAILED": "Fix the producer; `leadstream dead-letters show` shows where a value fails.",
}


def _check_clock(newest: Iterable["Message"], now: float) -> Iterator[Finding]:
    """Yield whether changes come from the future: a wrong clock on either side."""
    ahead = max(
        (message.timestamp()[1] / 1000 - now for message in newest if message.timestamp()[0]),
        default=0.0,
    )
    if ahead > SKEW_SECONDS:
        yield fail(
            "clock",
            f"the newest change was sent {format_duration(ahead)} after now by this machine's "
            "clock: one of the two clocks is wrong, and a score is as of the time in the change; "
            "keep both by NTP",
        )
