"""What must hold for any messages in any batches: the books balance, and nobody's answer depends on
its neighbours.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from consumer.scoring.leads import Lead
from consumer.scoring.result import BatchResult
from consumer.scoring.versions import Versions
from models.registry.slot import ModelSlot
from models.registry.versions import ModelRegistry
from tests.examples import examples
from tests.fakes import FakeMessage
from tests.trained_models import TRUST
from tests.unit.pipelines import (
    LETTERS,
    NOW_MS,
    PREDICTIONS,
    STATE,
    FakeLeads,
    batch,
    change,
    on,
    pipeline,
    predictions,
    raw,
    request,
)

# Rows without versions: those of the changes count.
LEADS = FakeLeads({f"lead_{i}": Lead(STATE | {"lead_score": 10.0 * i}, 0) for i in range(3)})
# A replica that lags for one lead, is ahead of the changes of another, and has no versions.
REPLICA = FakeLeads(
    {
        f"lead_{i}": Lead(STATE | {"lead_score": 10.0 * i}, version)
        for i, version in enumerate((2, 5, 0))
    }
)
SPLITS = st.lists(st.integers(1, 8), max_size=12)

states = st.fixed_dictionaries(
    {},
    optional={
        "lead_score": st.none() | st.floats() | st.sampled_from([1e14, -1.0]),
        "engagement_score": st.none() | st.floats(0, 120),
        "touchpoint_count": st.none() | st.integers(-5, 200),
        "status": st.none() | st.text(max_size=20),
        "created_at": st.sampled_from([NOW_MS, NOW_MS + 1, -1, NOW_MS - 10**10]),
    },
)
lead_ids = st.sampled_from(["lead_0", "lead_1", "lead_2", "stranger"])
kinds = st.one_of(
    st.tuples(st.just("fat"), lead_ids, states),
    st.tuples(st.just("thin"), lead_ids),
    st.tuples(st.just("deleted"), lead_ids),
    st.tuples(st.just("null"), lead_ids),
    st.tuples(st.just("loop"), lead_ids),
    st.tuples(st.just("junk"), st.binary(max_size=40)),
    st.tuples(
        st.just("request"), st.lists(lead_ids | st.integers() | st.text(max_size=3), max_size=5)
    ),
)


@pytest.fixture(scope="module")
def slot(model_store: str) -> ModelSlot:
    return ModelSlot(ModelRegistry(model_store, TRUST))


def messages(drawn: list[tuple[Any, ...]]) -> list[FakeMessage]:
    """The messages, their versions rising with their offsets as those of a CRM do."""
    built = []
    for offset, (kind, *fields) in enumerate(drawn):
        match kind:
            case "fat":
                built.append(change(offset, fields[0], fields[1], lead_version=offset + 1))
            case "versioned":
                built.append(
                    change(offset, fields[0], lead_version=fields[1], event_id="e" * fields[2])
                )
            case "thin":
                built.append(change(offset, fields[0], lead=None, lead_version=offset + 1))
            case "thin at":
                built.append(change(offset, fields[0], lead=None, lead_version=fields[1]))
            case "deleted":
                built.append(
                    change(offset, fields[0], change_type="DELETED", lead_version=offset + 1)
                )
            case "deleted at" | "erasing":
                built.append(
                    change(offset, fields[0], change_type="DELETED", lead_version=fields[1])
                )
            case "null":
                built.append(raw(offset, None, fields[0].encode()))
            case "loop":
                built.append(change(offset, fields[0], origin="leadstream"))
            case "junk":
                built.append(raw(offset, fields[0]))
            case "request":
                built.append(request(offset, fields[0]))
    return built


def split(all_: list[FakeMessage], sizes: list[int]) -> Iterator[list[FakeMessage]]:
    rest = all_
    for size in sizes:
        yield rest[:size]
        rest = rest[size:]
    yield rest


def outcomes(
    slot: ModelSlot,
    parts: Iterator[list[FakeMessage]],
    coalescing: bool = True,
    leads: FakeLeads = LEADS,
) -> list[BatchResult]:
    line = pipeline(slot, leads, versions=Versions(), LEADSTREAM_COALESCE=str(coalescing))
    found = []
    for part in filter(None, parts):
        found.append(line.process(batch(*part)))
        line.commit_started(found[-1])
        line.commit_finished(committed=True)
    return found


def table(found: list[BatchResult]) -> dict[bytes | None, dict[str, Any] | None]:
    """What a subscriber of the compacted topic ends up with, but for how many changes were
    coalesced.
    """
    last: dict[bytes | None, dict[str, Any] | None] = {}
    for outcome in found:
        answers = iter(predictions(outcome))
        for output in on(outcome, PREDICTIONS):
            last[output.key] = (
                None if output.value is None else next(answers) | {"coalesced_changes": 0}
            )
    return last


common = settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@common
@given(drawn=st.lists(kinds, max_size=25), sizes=SPLITS, coalescing=st.booleans())
def test_a_change_that_has_no_fate_or_two_would_unbalance_the_books(
    slot: ModelSlot, drawn: list[tuple[Any, ...]], sizes: list[int], coalescing: bool
) -> None:
    found = outcomes(slot, split(messages(drawn), sizes), coalescing)
    assert all(outcome.balances() for outcome in found)
    assert sum(outcome.consumed for outcome in found) == sum(
        kind != "request" for kind, *_ in drawn
    )
    assert sum(o.requests_answered + o.requests_dead_lettered for o in found) == sum(
        k == "request" for k, *_ in drawn
    )
    for outcome in found:
        assert len(outcome.letters) == len(on(outcome, LETTERS))


@common
@given(drawn=st.lists(kinds, max_size=25), sizes=SPLITS)
def test_a_table_of_scores_that_depends_on_where_batches_end_is_a_matter_of_luck(
    slot: ModelSlot, drawn: list[tuple[Any, ...]], sizes: list[int]
) -> None:
    together = outcomes(slot, iter([messages(drawn)]))
    in_parts = outcomes(slot, split(messages(drawn), sizes))
    one_by_one = outcomes(slot, iter([[message] for message in messages(drawn)]), coalescing=False)
    assert table(together) == table(in_parts) == table(one_by_one)


@common
@given(
    drawn=st.lists(
        st.one_of(
            st.tuples(st.just("versioned"), lead_ids, st.integers(1, 6), st.just(1)),
            st.tuples(st.just("deleted at"), lead_ids, st.integers(1, 6)),
            st.tuples(st.just("null"), lead_ids),
        ),
        max_size=25,
    ),
    sizes=SPLITS,
)
def test_a_change_that_comes_late_must_not_be_the_last_word_wherever_batches_end(
    slot: ModelSlot, drawn: list[tuple[Any, ...]], sizes: list[int]
) -> None:
    sent = messages(drawn)
    ways = [
        outcomes(slot, iter([sent])),
        outcomes(slot, split(sent, sizes)),
        outcomes(slot, iter([[message] for message in sent]), coalescing=False),
        outcomes(slot, split(sent, sizes), coalescing=False),
    ]
    assert all(table(found) == table(ways[0]) for found in ways[1:])
    for found in ways:
        seen: dict[str, int] = {}
        for prediction in (each for outcome in found for each in predictions(outcome)):
            assert prediction["lead_version"] >= seen.get(prediction["lead_id"], 0)
            seen[prediction["lead_id"]] = prediction["lead_version"]


@common
@given(
    drawn=st.lists(
        st.one_of(
            st.tuples(st.just("versioned"), lead_ids, st.integers(-1, 6), st.just(1)),
            # Not before an erasure, which ends the versions of changes whose rows nobody reads.
            st.tuples(st.sampled_from(["thin at", "erasing"]), lead_ids, st.integers(0, 6)),
        ),
        max_size=25,
    ),
    erases=st.booleans(),
    sizes=SPLITS,
)
@example(
    drawn=[("versioned", "lead_0", version, 1) for version in (2, 0, 1)], erases=False, sizes=[1]
)
@example(
    drawn=[("thin at", "lead_0", 0), ("versioned", "lead_0", 0, 1), ("versioned", "lead_0", 2, 1)],
    erases=False,
    sizes=[1],
)
@example(
    drawn=[("thin at", "lead_0", 6), ("versioned", "lead_0", 0, 1), ("versioned", "lead_0", 3, 1)],
    erases=False,
    sizes=[1],
)
def test_versions_that_are_missing_or_of_another_state_must_not_let_batches_decide(
    slot: ModelSlot, drawn: list[tuple[Any, ...]], erases: bool, sizes: list[int]
) -> None:
    kinds_left = {"versioned", "erasing" if erases else "thin at"}
    sent = messages([each for each in drawn if each[0] in kinds_left])
    ways = [
        outcomes(slot, iter([sent]), True, REPLICA),
        outcomes(slot, split(sent, sizes), True, REPLICA),
        outcomes(slot, iter([[message] for message in sent]), True, REPLICA),
        outcomes(slot, iter([sent]), False, REPLICA),
        outcomes(slot, split(sent, sizes), False, REPLICA),
    ]
    assert all(table(found) == table(ways[0]) for found in ways[1:])
    for found in ways:
        seen: dict[str, int] = {}
        for prediction in (each for outcome in found for each in predictions(outcome)):
            version = max(0, prediction["lead_version"])
            assert version >= seen.get(prediction["lead_id"], 0)
            seen[prediction["lead_id"]] = version


@common
@given(drawn=st.lists(kinds, max_size=15), sizes=SPLITS)
def test_without_coalescing_every_output_is_the_same_bytes_in_any_batches(
    slot: ModelSlot, drawn: list[tuple[Any, ...]], sizes: list[int]
) -> None:
    together = outcomes(slot, iter([messages(drawn)]), coalescing=False)
    in_parts = outcomes(slot, split(messages(drawn), sizes), coalescing=False)
    assert [output for outcome in together for output in outcome.outputs] == [
        output for outcome in in_parts for output in outcome.outputs
    ]


@common
@given(
    drawn=st.lists(
        kinds | st.tuples(st.just("versioned"), lead_ids, st.integers(-1, 4), st.integers(0, 300)),
        max_size=25,
    ),
    coalescing=st.booleans(),
)
def test_a_batch_in_columns_comes_to_the_same_as_one_message_by_message(
    slot: ModelSlot, drawn: list[tuple[Any, ...]], coalescing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"in columns": 1, "one by one": len(drawn) + 1}
    found = {}
    for way, many in sizes.items():
        monkeypatch.setattr("schemas.columns.MIN_ROWS", many)
        found[way] = [
            fields(outcome) for outcome in outcomes(slot, iter([messages(drawn)]), coalescing)
        ]
    assert found["in columns"] == found["one by one"]


def fields(outcome: BatchResult) -> dict[str, Any]:
    """All that came of a batch, without what only says in which order it was worked on."""
    return {
        "outputs": outcome.outputs,
        "dispositions": outcome.dispositions,
        "letters": {
            index: (letter.reason, letter.detail) for index, letter in outcome.letters.items()
        },
        "requests": (
            outcome.requests_answered,
            outcome.requests_dead_lettered,
            outcome.request_leads,
        ),
        "leads": (outcome.leads_asked, outcome.leads_found),
        "imputed": outcome.imputed,
        "coverage": sorted(outcome.coverage),
        "scored": sorted(key for part in outcome.scored for key in part.keys),
    }
