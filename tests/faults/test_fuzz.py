"""No payload may break the consumer or touch its neighbours.

`make fuzz` tries 200,000 at every boundary, here are some of them.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from consumer.scoring.result import BatchResult, Disposition
from leadstream.errors import Reason, UserError
from leadstream.kafka.batch import Batch, Message
from models.serve.scorer import Model
from producer.bad_records import BUILDERS, BadRecord, bad_records
from schemas.codec import Reader, Writer
from tests.fakes import FakeMessage
from tests.faults.boundaries import sentence
from tests.faults.fuzz import (
    FuzzFailure,
    borne,
    fuzz_all,
    fuzz_boundary,
    fuzz_pipeline,
    fuzzed,
    table_of,
)
from tests.faults.odd_values import CANARY
from tests.unit.pipelines import CHANGES, LETTERS, NOW_MS, REQUESTS, avro_request, batch, change

TOPICS = {"lead_changes": CHANGES, "rescore_requests": REQUESTS}
KINDS = sum(map(len, BUILDERS.values()))
# As many as are written in columns, and few enough to be written one by one.
SIZES = (3, 40)


def test_a_payload_that_breaks_the_process_or_has_no_reason_would_stop_every_consumer(
    model_store: str,
) -> None:
    ends = fuzzed(model_store, seed=1, count=3000)
    assert ends.total() == 3000
    assert ends.keys() == {
        *map(str, Reason),
        "scored",
        "coalesced",
        "erased",
        "ignored",
        "answered",
    }


def test_an_odd_input_at_any_boundary_ends_as_a_value_or_as_a_sentence(
    model_store: str, tmp_path: Path
) -> None:
    runs = fuzz_all(model_store, tmp_path, seed=1, count=2000)
    assert sum(run.ends.total() for run in runs) == 2000
    assert all(run.ends.total() > 10 and len(run.ends) > 1 for run in runs[:4])
    assert len(table_of(runs)) > len(runs)


def test_a_boundary_that_raises_or_shows_a_value_of_a_lead_is_found() -> None:
    def raises(rng: Random) -> str:
        raise KeyError(rng.random()) if rng.random() < 0.1 else StopIteration

    with pytest.raises(FuzzFailure, match="at input 0 of raises"):
        fuzz_boundary("raises", raises, 1, 10)

    def shows(_rng: Random) -> str:
        return sentence(UserError(f"the lead {CANARY} is odd"))

    with pytest.raises(FuzzFailure, match="a value of a lead"):
        fuzz_boundary("shows", shows, 1, 10)


@pytest.mark.parametrize("size", SIZES)
def test_a_bad_record_must_not_touch_its_neighbours_wherever_it_stands(
    model_store: str, size: int
) -> None:
    line = fuzz_pipeline(model_store)
    bad = bad_records(
        3,
        now=NOW_MS,
        encode_event=Writer("LeadChanged").encode,
        encode_request=Writer("RescoreRequest").encode,
    )
    kinds: dict[str, BadRecord] = {}
    while len(kinds) < KINDS:
        kinds |= {record.what: record for record in islice(bad, 10)}
    for i, record in enumerate(kinds.values()):
        good = [
            change(offset, f"lead_{offset}", {"lead_score": offset * 2.0}) for offset in range(size)
        ]
        good.append(avro_request(size, "request", ["lead_1", "nobody"]))
        alone = line.process(batch(*good)).outputs
        # Every place for small batches; for large ones the first, the last, and one between them.
        places = range(size + 2) if size < 10 else (0, 1 + i % size, size + 1)
        for place in places:
            one = FakeMessage(TOPICS[record.topic], 0, 900, record.key, record.value)
            outcome = line.process(batch(*good[:place], one, *good[place:]))
            [letter] = [output for output in outcome.outputs if output.topic == LETTERS]
            assert dict(letter.headers or [])["dlq.reason"] == record.reason.value.encode()
            assert [output for output in outcome.outputs if output != letter] == alone, record.what


@pytest.mark.parametrize("size", [40, 2000])
def test_bad_records_must_cost_as_much_as_they_are_and_not_the_batch_again(
    model_store: str, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Of every reason, and on top of a stack half as high as the batch: what is read, scored and
    written is counted.
    """
    line = fuzz_pipeline(model_store)
    encode, request = Writer("LeadChanged").encode, Writer("RescoreRequest").encode
    bad = list(
        islice(bad_records(3, now=NOW_MS, encode_event=encode, encode_request=request), 3 * KINDS)
    )
    messages: list[Message] = [
        change(i, f"lead_{i if i % 2 else 'one'}", {"lead_score": 2.0}) for i in range(size)
    ]
    messages += [change(size + i, "lead_one", {"lead_score": 1e14}) for i in range(10)]
    messages += [
        FakeMessage(TOPICS[one.topic], 0, 9_000 + i, one.key, one.value)
        for i, one in enumerate(bad)
    ]
    line.process(batch(*messages))
    work = Counter[str]()
    for what, owner, name in (
        ("read", Reader, "decode"),
        ("scored", Model, "score"),
        ("written", Writer, "encode"),
    ):
        monkeypatch.setattr(owner, name, _counted(getattr(owner, name), work, what))
    outcome = line.process(batch(*messages))
    k = outcome.dispositions[Disposition.DEAD_LETTERED] + outcome.requests_dead_lettered
    assert k == len(bad) + 10
    assert work["read"] <= k
    assert work["scored"] <= size // 2 + k
    assert work["written"] <= k


def _counted(call: Callable[..., Any], work: Counter[str], what: str) -> Callable[..., Any]:
    """The call; of one that scores, the rows count."""

    def counted(*arguments: Any, **options: Any) -> Any:
        work[what] += len(arguments[2]) if what == "scored" else 1
        return call(*arguments, **options)

    return counted


class Broken:
    """A pipeline with one thing wrong."""

    def __init__(self, model_store: str, wrong: str) -> None:
        self._line = fuzz_pipeline(model_store)
        self._wrong = wrong

    def process(self, batch: Batch) -> BatchResult:
        bad = any(message.key() == b"bad" for message in batch.messages)
        if bad and self._wrong == "raises":
            raise ZeroDivisionError
        outcome = self._line.process(batch)
        if bad and self._wrong == "touches":
            return replace(
                outcome, records=[output._replace(value=b"other") for output in outcome.outputs]
            )
        if bad and self._wrong == "forgets":
            return replace(
                outcome, dispositions=outcome.dispositions - Counter(list(outcome.dispositions)[:1])
            )
        return outcome


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("raises", "ZeroDivisionError.*payload 2 .*b'bad'"),
        ("touches", "neighbours"),
        ("forgets", "books"),
    ],
)
def test_a_fuzzer_that_does_not_see_a_broken_pipeline_is_worth_nothing(
    model_store: str, wrong: str, sentence: str
) -> None:
    messages = [
        change(0, "a"),
        change(1, "b"),
        FakeMessage(CHANGES, 0, 2, b"bad", b"junk"),
        change(3, "c"),
    ]
    assert borne(fuzz_pipeline(model_store), messages) == {"scored": 3, "UNKNOWN_FRAMING": 1}
    with pytest.raises(FuzzFailure, match=sentence):
        borne(Broken(model_store, wrong), messages)
