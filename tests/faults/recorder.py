"""From what stands in the topics and in the brokers' logs to a history."""

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.codec import Reader
from tests.faults.history import (
    Append,
    HistoryRecord,
    ProcessRun,
    RecordKind,
    RunHistory,
    SentRecord,
    Span,
    TopicSlice,
    Transaction,
    VisibleRecord,
)
from tests.faults.reading import readings, record_of
from tests.faults.segments import LogBatch, log_batches, offset_commit
from tests.faults.traffic import truth_of
from tests.integration.running import Stage, until

_OFFSETS_TOPIC = "__consumer_offsets"
# What a group commits outside of transactions has no producer.
_NO_PRODUCER = -1


def record(
    stage: Stage,
    data: Sequence[Path],
    processes: Sequence[ProcessRun],
    reader: Reader,
    *,
    coalesce: bool,
) -> RunHistory:
    """The history of a run that is over; `data` are the folders of the brokers' logs, which must
    agree, and `reader` reads its predictions.
    """
    read = readings(reader)
    inputs = {stage.topics.lead_changes, stage.topics.rescore_requests}
    sent = [_sent(r) for topic in sorted(inputs) for r in _read(stage, topic)]
    group = stage.environment["LEADSTREAM_GROUP_ID"]
    transactions, unfinished = _transactions(
        _agreed(data, TopicSlice(_OFFSETS_TOPIC, 0), values=True), group
    )
    owners = _Owners(transactions, sent)
    outputs: dict[str, list[VisibleRecord]] = {}
    appended: list[Append] = []
    for field in read:
        outputs[field] = []
        by_place: dict[TopicSlice, list[HistoryRecord]] = defaultdict(list)
        for each in _read(stage, getattr(stage.topics, field)):
            by_place[each.place].append(each)
        for place in _partitions(data[0], getattr(stage.topics, field)):
            records = [read[field](each, None) for each in by_place[place]]
            found, appends, left = _assigned(_agreed(data, place), place, records, owners)
            outputs[field] += found
            appended += appends
            unfinished += left
    return RunHistory(
        coalesce=coalesce,
        requests_topic=stage.topics.rescore_requests,
        sent=tuple(sent),
        predictions=tuple(outputs["lead_predictions"]),
        letters=tuple(outputs["dead_letters"]),
        results=tuple(outputs["rescore_results"]),
        transactions=tuple(transactions),
        appended=tuple(appended),
        committed=tuple(
            Span(place, 0, after) for place, (_, after) in group_offsets(stage).items()
        ),
        processes=tuple(processes),
        unfinished=unfinished,
        holes=tuple(
            hole
            for topic in sorted(inputs)
            for place in _partitions(data[0], topic)
            for hole in holes_in(place, _agreed(data, place))
        ),
    )


def holes_in(place: TopicSlice, log: Iterable[LogBatch]) -> Iterator[Span]:
    """The offsets of a partition that no subscriber sees: markers, and what was aborted or is
    open.
    """
    pending: dict[int, list[LogBatch]] = defaultdict(list)
    for batch in log:
        if batch.commits is not None:
            yield Span(place, batch.first, batch.last + 1)
            ended = pending.pop(batch.producer, [])
            yield from () if batch.commits else _spans(place, ended)
        elif batch.transactional:
            pending[batch.producer].append(batch)
    for left in pending.values():
        yield from _spans(place, left)


def _spans(place: TopicSlice, batches: Iterable[LogBatch]) -> Iterator[Span]:
    return (Span(place, each.first, each.last + 1) for each in batches)


def _read(stage: Stage, topic: str) -> Iterator[HistoryRecord]:
    """What a subscriber of committed data sees."""
    return map(record_of, stage.read(topic, 0, seconds=120))


def _sent(record: HistoryRecord) -> SentRecord:
    return SentRecord(record, truth_of(record.headers))


def _partitions(data: Path, topic: str) -> list[TopicSlice]:
    return sorted(
        (
            TopicSlice(topic, int(folder.name.rpartition("-")[2]))
            for folder in data.glob(f"{topic}-[0-9]*")
        ),
        key=lambda place: place.partition,
    )


def _agreed(data: Sequence[Path], place: TopicSlice, *, values: bool = False) -> list[LogBatch]:
    """The log of a partition, once every broker has the same."""

    def read() -> list[list[LogBatch]]:
        folder = f"{place.topic}-{place.partition}"
        logs = [
            list(log_batches(each / folder, read_records=values))
            for each in data
            if (each / folder).is_dir()
        ]
        return logs if logs and all(log == logs[0] for log in logs) else []

    logs: list[list[LogBatch]] = until(read, f"the brokers agree on {place.format()}", 60)
    return logs[0]


def _transactions(log: Iterable[LogBatch], group: str) -> tuple[list[Transaction], int]:
    """The committed transactions of a group in the order of their markers, and how many were left
    open.
    """
    pending: dict[int, dict[TopicSlice, int]] = {}
    stands: dict[TopicSlice, int] = defaultdict(int)
    found: list[Transaction] = []

    def commit(producer: int, offsets: Mapping[TopicSlice, int]) -> None:
        spans = tuple(Span(place, stands[place], offset) for place, offset in offsets.items())
        stands.update(offsets)
        found.append(Transaction(len(found), producer, spans))

    for batch in log:
        if batch.commits is not None:
            offsets = pending.pop(batch.producer, None)
            if batch.commits and offsets:
                commit(batch.producer, offsets)
            continue
        commits = filter(None, (offset_commit(key, value) for key, value in batch.records))
        own = {
            TopicSlice(each.topic, each.partition): each.offset
            for each in commits
            if each.group == group
        }
        if not batch.transactional and own:
            commit(_NO_PRODUCER, own)
        elif own:
            pending.setdefault(batch.producer, {}).update(own)
    return found, len(pending)


class _Owners:
    """Which transactions an output may belong to, by the records that it can come from."""

    def __init__(self, transactions: Sequence[Transaction], sent: Sequence[SentRecord]) -> None:
        self.producers = {transaction.number: transaction.producer for transaction in transactions}
        self._by_source = {
            (span.place, offset): transaction.number
            for transaction in transactions
            for span in transaction.spans
            for offset in range(span.first, span.after)
        }
        self._by_lead: dict[str, set[int]] = defaultdict(set)
        for each in sent:
            number = self._by_source.get((each.record.place, each.record.offset))
            if each.truth.kind in {RecordKind.ERASURE, RecordKind.REQUEST} and number is not None:
                self._by_lead[each.truth.lead].add(number)

    def transactions_of(self, output: VisibleRecord) -> set[int]:
        if output.source is None:
            return self._by_lead[output.lead]
        number = self._by_source.get(output.source)
        return set() if number is None else {number}


def _assigned(
    log: Sequence[LogBatch], place: TopicSlice, visible: Sequence[VisibleRecord], owners: _Owners
) -> tuple[list[VisibleRecord], list[Append], int]:
    """The outputs of a partition with their transactions, what the log has of them, and how many
    were left open.

    Between two markers all batches of a producer are of one transaction: the earliest of its
    producer that consumed what all of its outputs tell of, and that comes after the one before.
    Where there is none they have none.
    """
    at = {output.record.offset: output for output in visible}
    pending: dict[int, list[LogBatch]] = defaultdict(list)
    last: dict[int, int] = defaultdict(lambda: -1)
    found: list[VisibleRecord] = []
    appends: list[Append] = []
    for batch in log:
        if batch.commits is None:
            pending[batch.producer].append(batch)
            continue
        ended = pending.pop(batch.producer, [])
        appends += [Append(place, each.first, each.last, batch.commits) for each in ended]
        own = [
            at.pop(offset)
            for each in ended
            for offset in range(each.first, each.last + 1)
            if offset in at
        ]
        if not own:
            continue
        fitting = {
            number
            for number in set.intersection(*map(owners.transactions_of, own))
            if owners.producers[number] == batch.producer and number > last[batch.producer]
        }
        number = min(fitting, default=None)
        if number is not None:
            last[batch.producer] = number
        found += [replace(output, transaction=number) for output in own]
    appends += [
        Append(place, each.first, each.last, committed=False)
        for left in pending.values()
        for each in left
    ]
    return [*found, *at.values()], appends, len(pending)


def group_offsets(stage: Stage) -> dict[TopicSlice, tuple[int, int]]:
    """Of each consumed partition its end, and where the group stands by what it has committed.

    Waits for a coordinator that is being made or moves.
    """

    def asked() -> dict[TopicSlice, tuple[int, int]] | None:
        with contextlib.suppress(KafkaException):
            return _ask_offsets(stage)
        return None

    found: dict[TopicSlice, tuple[int, int]] = until(asked, "the group's coordinator answers", 60)
    return found


def _ask_offsets(stage: Stage) -> dict[TopicSlice, tuple[int, int]]:
    # Of the group by name, without joining it.
    config = {
        "bootstrap.servers": stage.bootstrap,
        "group.id": stage.environment["LEADSTREAM_GROUP_ID"],
    }
    consumer = Consumer(config)
    try:
        places = [
            TopicPartition(topic, partition)
            for topic in (stage.topics.lead_changes, stage.topics.rescore_requests)
            for partition in consumer.list_topics(topic, timeout=30).topics[topic].partitions
        ]
        return {
            TopicSlice(each.topic, each.partition): (
                consumer.get_watermark_offsets(each, timeout=30)[1],
                max(0, each.offset),
            )
            for each in consumer.committed(places, timeout=30)
        }
    finally:
        consumer.close()
