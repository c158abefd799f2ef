"""A history without brokers: the real pipeline over generated batches and a perfect log."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from zlib import crc32

import numpy as np

from consumer.scoring.leads import Lead
from consumer.scoring.result import BatchResult
from consumer.scoring.versions import Versions
from models.registry.slot import ModelSlot
from schemas.codec import Reader, Writer
from tests.fakes import FakeMessage
from tests.faults.history import (
    Append,
    BatchLine,
    Ending,
    ProcessRun,
    RunHistory,
    SentRecord,
    Span,
    TopicSlice,
    Transaction,
    VisibleRecord,
)
from tests.faults.reading import readings, record_of
from tests.faults.traffic import LEADS, Traffic, truth_of
from tests.unit.pipelines import (
    CHANGES,
    LETTERS,
    NOW_MS,
    PREDICTIONS,
    REQUESTS,
    RESULTS,
    STATE,
    FakeLeads,
    batch,
)
from tests.unit.pipelines import pipeline as made

PARTITIONS = 2
_READINGS = readings(Reader("LeadPrediction"))
_READ = {PREDICTIONS: "lead_predictions", LETTERS: "dead_letters", RESULTS: "rescore_results"}


def simulate_run(
    slot: ModelSlot,
    seed: int,
    records: int = 400,
    *,
    coalesce: bool = True,
    remembers: bool = True,
    leads: int = LEADS,
    max_records: int = 30,
) -> RunHistory:
    """What a well-behaved group of two processes leaves behind; one of them is killed before its
    last line.

    A batch has up to `max_records` records of each partition. Where nobody `remembers` versions, it
    is not well-behaved.
    """
    rng = np.random.default_rng([seed, 9])
    traffic = Traffic(
        seed, Writer("LeadChanged").encode, Writer("RescoreRequest").encode, now=NOW_MS, leads=leads
    )
    rows = {row.lead_id: row for row in traffic.people()}
    log: dict[TopicSlice, list[FakeMessage]] = defaultdict(list)
    for shipment in itertools.islice(traffic.shipments(), records):
        topic = {"lead_changes": CHANGES, "rescore_requests": REQUESTS}[shipment.topic]
        partition = crc32(shipment.key or b"") % PARTITIONS if topic == CHANGES else 0
        place = log[TopicSlice(topic, partition)]
        place.append(
            FakeMessage(
                topic,
                partition,
                len(place),
                shipment.key,
                shipment.value,
                list(shipment.headers),
                NOW_MS + len(place) if shipment.timestamp is None else shipment.timestamp,
            )
        )
        if shipment.row and shipment.row.version > rows[shipment.row.lead_id].version:
            rows[shipment.row.lead_id] = shipment.row
    crm = FakeLeads(
        {
            row.lead_id: Lead(STATE | {"lead_score": row.lead_score}, row.version)
            for row in rows.values()
        }
    )
    versions = Versions()
    line = made(slot, crm, versions=versions, LEADSTREAM_COALESCE=str(coalesce))

    def process(messages: list[FakeMessage]) -> BatchResult:
        outcome = line.process(batch(*messages))
        if remembers:
            line.commit_started(outcome)
            line.commit_finished(committed=True)
        return outcome

    return _consume(log, process, rng, coalesce, max_records)


def _consume(
    log: dict[TopicSlice, list[FakeMessage]],
    process: Callable[[list[FakeMessage]], BatchResult],
    rng: np.random.Generator,
    coalesce: bool,
    max_records: int,
) -> RunHistory:
    stands = dict.fromkeys(log, 0)
    transactions: list[Transaction] = []
    appended: list[Append] = []
    outputs: dict[str, list[VisibleRecord]] = {kind: [] for kind in _READINGS}
    lines: dict[int, list[BatchLine]] = {0: [], 1: []}
    ends: Counter[TopicSlice] = Counter()
    while any(stands[place] < len(log[place]) for place in log):
        spans = []
        for place, messages in log.items():
            take = min(int(rng.integers(0, max_records)), len(messages) - stands[place])
            if take:
                spans.append(Span(place, stands[place], stands[place] + take))
                stands[place] += take
        if not spans:
            continue
        number = len(transactions)
        transactions.append(Transaction(number, number % 2, tuple(spans)))
        outcome = process(
            [message for span in spans for message in log[span.place][span.first : span.after]]
        )
        written: dict[TopicSlice, list[FakeMessage]] = defaultdict(list)
        for out in outcome.outputs:
            place = TopicSlice(out.topic, crc32(out.key or b"") % PARTITIONS)
            offset = ends[place] + len(written[place])
            headers, timestamp = list(out.headers or []), out.timestamp or NOW_MS
            written[place].append(
                FakeMessage(
                    out.topic, place.partition, offset, out.key, out.value, headers, timestamp
                )
            )
        for place, messages in written.items():
            kind = _READ[place.topic]
            outputs[kind] += [_READINGS[kind](record_of(message), number) for message in messages]
            appended.append(
                Append(place, ends[place], ends[place] + len(messages) - 1, committed=True)
            )
            ends[place] += (
                len(messages) + 1
            )  # the marker that ends a transaction has an offset, too
        lines[number % 2].append(_line(outcome))
    killed = lines[1][:-1]
    return RunHistory(
        coalesce=coalesce,
        requests_topic=REQUESTS,
        sent=tuple(
            SentRecord(record_of(m), truth_of(tuple(m.headers() or ())))
            for messages in log.values()
            for m in messages
        ),
        predictions=tuple(outputs["lead_predictions"]),
        letters=tuple(outputs["dead_letters"]),
        results=tuple(outputs["rescore_results"]),
        transactions=tuple(transactions),
        appended=tuple(appended),
        committed=tuple(Span(place, 0, len(messages)) for place, messages in log.items()),
        processes=(
            ProcessRun("first", Ending.STOPPED, 0, tuple(lines[0])),
            ProcessRun("second", Ending.KILLED, -9, tuple(killed)),
        ),
    )


def _line(outcome: BatchResult) -> BatchLine:
    requests = outcome.requests_answered + outcome.requests_dead_lettered
    dispositions = {disposition.value: count for disposition, count in outcome.dispositions.items()}
    none = dict.fromkeys(("scored", "coalesced", "dead_lettered", "erased", "ignored"), 0)
    return BatchLine(
        outcome.consumed + requests,
        outcome.consumed,
        **none | dispositions,
        requests=requests,
        model=outcome.model_version,
    )
