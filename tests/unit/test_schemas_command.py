"""`leadstream schemas`: what a person sees, what a program reads, and the exit codes."""

import argparse
import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from leadstream.cli import schemas as command
from leadstream.errors import SettingsError, UserError
from schemas import schema_files
from tests.registry_server import RegistryState, registry_server


def run(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="leadstream")
    command.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["schemas", *words])
    code: int = arguments.func(arguments)
    return code


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[RegistryState]:
    monkeypatch.chdir(tmp_path)
    with registry_server() as state:
        monkeypatch.setenv("SCHEMA_REGISTRY_URL", state.url)
        yield state


@pytest.mark.parametrize(
    "words", [["--help"], ["check", "--help"], ["register", "--help"], ["show", "--help"]]
)
def test_each_help_has_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*words)
    assert caught.value.code == 0
    assert "example: " in capsys.readouterr().out


def test_check_passes_on_what_is_released(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(schema_files.FILES)
    # A schema may have changed since the last release, as long as its promise holds.
    assert all(line.endswith(("unchanged", "compatible, changed")) for line in lines)
    assert all(len(line) <= 80 for line in lines)


def test_check_exits_1_with_a_sentence_for_each_break(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = deepcopy(schema_files.current_schema("LeadChanged"))
    broken["fields"].append({"name": "region", "type": "string"})
    real = schema_files.current_schema
    monkeypatch.setattr(
        schema_files,
        "current_schema",
        lambda name, *rest: broken if name == "LeadChanged" else real(name, *rest),
    )
    assert run("check") == 1
    out = capsys.readouterr().out
    assert (
        "LeadChanged can no longer read what 1.0.0 wrote: "
        "field region is not written, and has no default." in out
    )
    assert run("check", "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert [row["record"] for row in answer["comparisons"] if row["breaks"]] == ["LeadChanged"]


def test_show_prints_a_schema_that_can_be_used_and_its_fingerprint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("show", "LeadOutcome") == 0
    head, _, schema = capsys.readouterr().out.partition("\n")
    assert "7d89da283dd6cc21" in head
    assert json.loads(schema) == schema_files.current_schema("LeadOutcome")
    assert run("show", "LeadOutcome", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["fingerprint"], answer["schema"]) == (
        "7d89da283dd6cc21",
        schema_files.current_schema("LeadOutcome"),
    )


def test_show_without_a_name_lists_every_record(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(
        schema_files.FILES
    )
    assert run("show", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == len(schema_files.FILES)


def test_an_unknown_name_is_a_usage_error_that_names_the_known_ones() -> None:
    with pytest.raises(
        SettingsError, match=r"no record Lead; there are LeadChanged, .*RescoreResult"
    ):
        run("show", "Lead")


def test_register_fills_an_empty_registry_with_every_subject_and_its_level(
    server: RegistryState, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("register") == 0
    assert server.levels == {
        "crm.lead-changes-value": "BACKWARD_TRANSITIVE",
        "crm.rescore-requests-value": "BACKWARD_TRANSITIVE",
        "crm.lead-predictions-value": "FULL_TRANSITIVE",
        "crm.rescore-results-value": "FULL_TRANSITIVE",
        "crm.lead-changes.dlq.audit-value": "FULL_TRANSITIVE",
        "crm.lead-outcomes-value": "BACKWARD_TRANSITIVE",
        "crm.lead-predictions.shadow-value": "FULL_TRANSITIVE",
        "crm.retrain-requests-value": "FULL_TRANSITIVE",
    }
    assert server.subjects.keys() == server.levels.keys()
    assert json.loads(server.schemas[0]) == schema_files.current_schema("LeadChanged")
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_register_twice_changes_nothing(
    server: RegistryState, capsys: pytest.CaptureFixture[str]
) -> None:
    run("register")
    before = deepcopy(server.subjects)
    capsys.readouterr()
    assert run("register", "--json") == 0
    assert server.subjects == before
    rows = json.loads(capsys.readouterr().out)
    assert {row["subject"]: [row["id"]] for row in rows} == before


def test_register_follows_renamed_topics(
    server: RegistryState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEADSTREAM_TOPIC_LEAD_CHANGES", "eu.changes")
    assert run("register") == 0
    assert "eu.changes-value" in server.subjects
    assert "crm.lead-changes-value" not in server.subjects


def test_register_says_which_subject_a_registry_refuses_or_fails(server: RegistryState) -> None:
    server.refuse.add("crm.lead-predictions-value")
    with pytest.raises(UserError, match=r"refuses the schema of crm\.lead-predictions-value"):
        run("register")
    server.failure = 503
    with pytest.raises(UserError, match=r"crm\.lead-changes-value was not registered.*HTTP 503"):
        run("register")


def test_register_without_a_registry_names_the_setting(
    server: RegistryState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCHEMA_REGISTRY_URL")
    with pytest.raises(SettingsError, match="SCHEMA_REGISTRY_URL is not set"):
        run("register")
