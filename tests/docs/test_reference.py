"""The reference page and the code agree on every verb, setting and metric."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric

from leadstream.cli.main import parser
from leadstream.errors import Reason
from leadstream.kafka.topics import CONFIGS, VARIABLES, Topics
from leadstream.process.metrics import (
    FollowMetrics,
    HistoryMetrics,
    LearnMetrics,
    Metrics,
    RefreshMetrics,
    RelayMetrics,
    SinkMetrics,
    TranslateMetrics,
)
from leadstream.settings import Settings

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference" / "index.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXPLAINED = [
    ROOT / "docs" / "reference" / "glossary.md",
    *sorted((ROOT / "docs" / "explanation").glob("*.md")),
]
RECORDS = {
    name
    for path in (ROOT / "schemas").glob("*.avsc")
    for name in re.findall(r'"name": "(\w+)"', path.read_text())
}
CLASS = re.compile(r"^class (\w+)", re.MULTILINE)
SOURCES = "\n".join(
    path.read_text()
    for room in ("consumer", "features", "leadstream", "models", "producer", "schemas")
    for path in (ROOT / room).rglob("*.py")
)


def rows(heading: str) -> dict[str, list[str]]:
    """Return the rows of the table under a heading by their first cell, without back-ticks."""
    section = REFERENCE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in section.splitlines()
        if line[:1] == "|"
    ]
    return {row[0].strip("`"): row[1:] for row in cells[2:]}


def verbs() -> dict[str, argparse.ArgumentParser]:
    """Every verb that does something, by its words."""
    found: dict[str, argparse.ArgumentParser] = {}

    def walk(words: str, at: argparse.ArgumentParser) -> None:
        inner: Any = [
            action for action in at._actions if isinstance(action, argparse._SubParsersAction)
        ]
        for action in inner:
            for name, sub in action.choices.items():
                walk(f"{words} {name}".strip(), sub)
        if not inner:
            found[words] = at

    walk("", parser())
    return found


def metrics() -> list[Metric]:
    kinds = (
        Metrics(),
        FollowMetrics(),
        RelayMetrics(),
        RefreshMetrics(),
        SinkMetrics(),
        TranslateMetrics(),
        HistoryMetrics(),
        LearnMetrics(),
    )
    return [metric for kind in kinds for metric in kind.registry.collect()]


def test_every_verb_is_in_the_reference_and_no_other() -> None:
    assert set(rows("Verbs")) == {f"leadstream {words}" for words in verbs()}


@pytest.mark.parametrize("words", verbs())
def test_a_verb_without_an_example_leaves_its_reader_guessing(words: str) -> None:
    help_ = verbs()[words].format_help()
    assert f"leadstream {words}" in help_.split("example")[-1]


def test_every_setting_is_in_the_reference_with_its_default_and_meaning() -> None:
    expected = {
        field.alias: [
            f"`{_format(field.default)}`" if field.default is not None else "",
            field.description,
        ]
        for field in Settings.model_fields.values()
        if field.alias
    }
    assert rows("Settings") == expected


def test_every_topic_is_in_the_reference_with_its_variable_and_settings() -> None:
    default = Topics()
    expected = {
        getattr(default, field): [
            f"`{variable}`",
            ", ".join(f"{k}={v}" for k, v in CONFIGS[field].items()),
        ]
        for variable, field in VARIABLES.items()
    }
    assert rows("Topics") == expected


def test_every_metric_is_in_the_reference_with_its_sentence() -> None:
    assert {name: row[-1] for name, row in rows("Metrics").items()} == {
        metric.name + ("_total" if metric.type == "counter" else ""): metric.documentation
        for metric in metrics()
    }


def test_every_reason_of_a_dead_letter_is_explained() -> None:
    assert set(rows("Dead-letter reasons")) == {reason.value for reason in Reason}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_to_a_page_that_does_not_exist_leads_nowhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_in_the_docs_that_does_not_exist_fails_its_reader(page: Path) -> None:
    known = verbs()
    for command in re.findall(
        r"^(?:\$ )?leadstream ([a-z][a-z -]*)", page.read_text(), re.MULTILINE
    ):
        assert any(command.startswith(words) for words in known), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_file_that_the_docs_name_but_that_is_gone_misleads_its_reader(page: Path) -> None:
    named = re.findall(r"`((?:[a-z_-]+/)+(?:[\w.-]+\.(?:py|md|json|toml|yml))?)`", page.read_text())
    for name in named:
        if (ROOT / name.split("/")[0]).is_dir():
            assert (ROOT / name).exists(), name
    for name in re.findall(r"`((?:consumer|leadstream|models)(?:\.[a-z_]+)+)`", page.read_text()):
        path = ROOT / name.replace(".", "/")
        setting = name == "leadstream.origin"  # of a Postgres session
        assert setting or path.is_dir() or path.with_suffix(".py").exists(), name


@pytest.mark.parametrize("page", EXPLAINED, ids=lambda page: page.name)
def test_a_class_that_an_explanation_names_is_in_the_code(page: Path) -> None:
    named = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", page.read_text()))
    assert named - RECORDS <= set(CLASS.findall(SOURCES)), page.name


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"`make ([a-z-]+)", page.read_text())) <= targets, page.name


def test_config_prints_every_setting_as_one_json_object(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "leadstream.cli.main", "config", "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "DATABASE_URL": "postgresql://crm:hush@db/crm"},
    )
    displayed = json.loads(done.stdout)
    assert set(displayed) == set(rows("Settings")) | set(VARIABLES)
    assert "hush" not in done.stdout


def _format(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else f"{default}"
