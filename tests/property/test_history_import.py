"""The states that an import reconstructs are those that the leads really had."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.log_import import LogReport, import_log
from producer.log_sources import CrmLogFormat, LogSource, open_log
from tests.crm_logs import (
    FIELDS,
    LOGS,
    MAPPING,
    TRACKED,
    UNTRACKED,
    LeadLife,
    fields_of,
    write_leads,
)
from tests.examples import examples

# A morning of winter, so that each local time is one moment.
START = 1_736_150_400_000
NOW = START + 30 * 86_400_000
TEXTS: dict[str, st.SearchStrategy[str | None]] = {
    "Status": st.sampled_from([None, "Open", "Working", "Closed"]),
    "Score": st.sampled_from([None, "0", "1", "2.5", "1000000"]),
    "Budget": st.sampled_from([None, "-3", "0.10", "7"]),
    "Topics": st.sampled_from([None, "Law", "Law;Art", "Art, History"]),
    "Source": st.sampled_from(["Web", "Fair"]),
}


@st.composite
def lives(draw: st.DrawFn) -> list[LeadLife]:
    found = []
    for number in range(draw(st.integers(1, 4))):
        at = created_at = START + 1000 * draw(st.integers(0, 5))
        changes = []
        for _ in range(draw(st.integers(0, 9))):
            # Some changes are at the same moment, and of the same field.
            at += draw(st.sampled_from([0, 1000, 86_400_000]))
            column = draw(st.sampled_from(list(FIELDS)))
            changes.append((at, column, draw(TEXTS[column])))
        texts = {column: draw(TEXTS[column]) for column in FIELDS}
        found.append(LeadLife(f"lead{number}", created_at, texts, tuple(changes)))
    return found


def imported(
    lives: list[LeadLife], kind: str, folder: Path, **options: Any
) -> tuple[dict[str, dict[int, dict[str, Any]]], LogReport]:
    """Return the states by lead and moment."""
    name, write = LOGS[kind]
    (folder / "m.toml").write_text(MAPPING if kind == "fields" else MAPPING.split("[history]")[0])
    write(folder / name, lives)
    write_leads(folder / "leads.csv", lives)
    source = LogSource(
        folder / name,
        CrmLogFormat(kind),
        leads=None if kind == "hubspot" else folder / "leads.csv",
        described=folder / "m.toml",
        **options,
    )
    report, opened = LogReport(), open_log(source, NOW)
    pasts = list(import_log(opened.leads, opened.entries, opened.how, report))
    return {
        past.changes[0]["lead_id"]: {each["occurred_at"]: each["lead"] for each in past.changes}
        for past in pasts
        if past.changes
    }, report


@pytest.mark.parametrize("kind", LOGS)
@settings(max_examples=examples(24), deadline=None)
@given(lives())
def test_a_state_of_the_past_is_not_the_one_that_the_lead_had(
    kind: str, lives: list[LeadLife]
) -> None:
    with TemporaryDirectory() as folder:
        states, report = imported(
            lives, kind, Path(folder), tracked=TRACKED, tracked_since=START - 1
        )
    assert set(states) == {life.lead_id for life in lives}
    for life in lives:
        found = states[life.lead_id]
        assert {at: fields_of(state) for at, state in found.items()} == life.states()
        # Today's value must never be that of the past.
        assert all(state.get(FIELDS[UNTRACKED]) is None for state in found.values())
    assert not +report.counts.unplaced


@settings(max_examples=examples(24), deadline=None)
@given(lives())
def test_without_a_stated_start_a_field_is_known_before_its_first_change(
    lives: list[LeadLife],
) -> None:
    with TemporaryDirectory() as folder:
        states, report = imported(lives, "salesforce", Path(folder))
    for life in lives:
        true = life.states()
        for at, state in states.get(life.lead_id, {}).items():
            for column in TRACKED:
                name, since = FIELDS[column], report.since.get(column.lower())
                known = since is not None and at >= since
                assert fields_of(state)[name] == (true[at][name] if known else None)
