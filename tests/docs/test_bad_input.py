"""The table of docs/reference/bad-input.md, row by row, through the real pipeline."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from consumer.scoring.leads import Lead
from consumer.scoring.result import BatchResult, Disposition
from leadstream.kafka.config import Headers
from leadstream.lead_fields import MAX_CHANGE_BYTES
from models.registry.slot import ModelSlot
from models.registry.versions import ModelRegistry
from tests.fakes import FakeMessage
from tests.faults.boundaries import boundaries
from tests.trained_models import TRUST
from tests.unit.pipelines import (
    CHANGES,
    NOW_MS,
    REQUESTS,
    STATE,
    FakeLeads,
    batch,
    change,
    event,
    pipeline,
    predictions,
    raw,
    reasons,
    request,
    results,
)

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "bad-input.md"
IMPUTED = "lead_score"


def _value(message: FakeMessage) -> bytes:
    assert message.value_ is not None
    return message.value_


def _in_json(text: str) -> FakeMessage:
    headers: Headers = [("content-type", b"application/json")]
    return replace(raw(0, text.encode()), headers_=headers)


def _unknown_symbol() -> FakeMessage:
    one, other = _value(change(0, change_type="CREATED")), _value(change(0, change_type="UPDATED"))
    at = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    return raw(0, one[:at] + b"\x7e" + one[at + 1 :])


INPUTS: dict[str, Callable[[], FakeMessage]] = {
    "NaN as a number": lambda: change(0, state={IMPUTED: math.nan}),
    "an infinite number": lambda: change(0, state={IMPUTED: math.inf}),
    "a number out of its range": lambda: change(0, state={IMPUTED: -1.0}),
    "a number that is absent": lambda: change(0, state={IMPUTED: None}),
    "a category that is absent or empty": lambda: change(0, state={"source": None, "status": ""}),
    "a category never seen in training": lambda: change(0, state={"source": "carrier pigeon"}),
    "a category of 100,000 characters": lambda: change(0, state={"source": "x" * 100_000}),
    "a lead id of 257 characters": lambda: change(0, "x" * 257),
    "an event id of 257 characters": lambda: change(0, event_id="x" * 257),
    "an empty lead id": lambda: change(0, ""),
    "an empty event id": lambda: change(0, event_id=""),
    "a null key": lambda: raw(0, _value(change(0)), None),
    "an empty key": lambda: raw(0, _value(change(0)), b""),
    "a key that is not the lead id": lambda: raw(0, _value(change(0)), b"lead_2"),
    "a key that is not UTF-8": lambda: raw(0, _value(change(0)), b"\xff\xfe"),
    "created_at after occurred_at": lambda: change(0, state={"created_at": NOW_MS + 1}),
    "occurred_at before 1970 or after 9999": lambda: change(
        0, occurred_at=-1, state={"created_at": -2}
    ),
    "created_at before 1970": lambda: change(0, state={"created_at": -1}),
    "a lead score of 1e14": lambda: change(0, state={"lead_score": 1e14}),
    "an unknown enum symbol": _unknown_symbol,
    "a truncated value": lambda: raw(0, _value(change(0))[:-3]),
    "trailing bytes": lambda: raw(0, _value(change(0)) + b"\x00"),
    "text that is not UTF-8": lambda: raw(
        0, _value(change(0, state={"source": "MARK"})).replace(b"MARK", b"\xff" * 4)
    ),
    "JSON without its header": lambda: raw(0, json.dumps(event()).encode()),
    "JSON that is cut off": lambda: _in_json(json.dumps(event())[:-1]),
    "JSON with a field of the wrong type": lambda: _in_json(json.dumps(event(lead_version="4"))),
    "JSON with a field that the schema does not have": lambda: _in_json(json.dumps(event(gpa=3))),
    "JSON with a field that is there twice": lambda: _in_json(
        json.dumps(event()).replace('"event_id"', '"lead_id": "", "event_id"')
    ),
    "an empty value": lambda: raw(0, b""),
    "a foreign framing": lambda: raw(0, b"Obj\x01" + _value(change(0))),
    "an unknown schema fingerprint": lambda: raw(
        0, b"\xc3\x01" + b"\x07" * 8 + _value(change(0))[10:]
    ),
    "a schema id without a registry": lambda: raw(
        0, b"\x00\x00\x00\x00\x07" + _value(change(0))[10:]
    ),
    "a change of more than 262,144 bytes": lambda: raw(0, b"\xc3\x01".ljust(MAX_CHANGE_BYTES + 1)),
    "a change without state of an unknown lead": lambda: change(0, "nobody", lead=None),
    "a request that is not one of the three forms": lambda: request(0, {"ids": ["lead_1"]}),
    "a request of 10,001 ids": lambda: request(0, ["lead_1"] * 10_001),
    "a request with a null value": lambda: raw(0, None, topic=REQUESTS),
    "a request whose id is no Unicode text": lambda: request(
        0, {"request_id": "\ud800", "lead_ids": ["lead_1"]}
    ),
    "a request with a bad id among good ones": lambda: request(0, ["lead_1", "nobody"]),
    "a null value": lambda: raw(0, None),
    "a change that Leadstream caused": lambda: change(0, origin="leadstream"),
}


def table() -> dict[str, str]:
    """The second column by the first."""
    return rows_of(PAGE.read_text().partition("\n## ")[0])


def rows_of(text: str) -> dict[str, str]:
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    return {row[1].strip(): row[2].strip() for row in rows[2:]}


def end_of(outcome: BatchResult) -> str:
    """What the table calls this outcome."""
    if reasons(outcome):
        return reasons(outcome)[0]
    if results(outcome):
        return "answered"
    if outcome.dispositions[Disposition.SCORED]:
        [prediction] = predictions(outcome)
        return "predicted, imputed" if prediction["imputed"] else "predicted"
    return next(iter(outcome.dispositions)).value


def test_every_row_of_the_table_is_tried_and_everything_tried_is_in_the_table() -> None:
    assert list(table()) == list(INPUTS)


def test_every_boundary_of_the_fuzzer_is_in_the_second_table(
    model_store: str, tmp_path: Path
) -> None:
    with boundaries(model_store, tmp_path) as tried:
        assert list(rows_of(PAGE.read_text().partition("\n## ")[2])) == list(tried)


@pytest.fixture(scope="module")
def slot(model_store: str) -> ModelSlot:
    return ModelSlot(ModelRegistry(model_store, TRUST))


@pytest.mark.parametrize("name", INPUTS)
def test_bad_input_has_the_end_that_the_docs_promise(name: str, slot: ModelSlot) -> None:
    leads = FakeLeads({"lead_1": Lead(STATE, 1)})
    message = INPUTS[name]()
    good = change(1, "neighbour", state={"lead_score": 41.0})
    outcome = pipeline(slot, leads).process(batch(message))
    assert end_of(outcome) == table()[name]
    with_neighbour = predictions(pipeline(slot, leads).process(batch(message, good)))
    alone = predictions(pipeline(slot, leads).process(batch(good)))
    assert [p for p in with_neighbour if p["lead_id"] == "neighbour"] == alone
    assert message.topic() in (CHANGES, REQUESTS)
