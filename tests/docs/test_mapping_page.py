"""The page of the mapping's grammar has every key that the code reads, and no other."""

import re
import tomllib
from pathlib import Path

import pytest

from producer.fields import LEAD_KEYS
from producer.mapping import FILE_OPTIONS, parse_mapping
from producer.moments import EXCEL_BASES
from schemas.description_file import (
    FIELD_OPTIONS,
    INPUT_OPTIONS,
    LOG_KEYS,
    OUTCOME_OF_DATABASE,
    OUTCOME_OF_FILE,
    SECTIONS,
)

PAGE = (Path(__file__).parents[2] / "docs/reference/mapping.md").read_text("utf-8")


def _keys(heading: str) -> set[str]:
    """Return the words in code in the first column of the first table below a heading."""
    section = PAGE.partition(f"\n{heading}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`\"?(\w+)\"?`", row)}


@pytest.mark.parametrize(
    ("heading", "keys"),
    [
        ("## `[file]`", FILE_OPTIONS),
        ("## `[rows]`", {"only"}),
        ("## `[lead]`", (LEAD_KEYS - {"decided_at"}) | {"numbers", "categories"}),
        ("## Options", FIELD_OPTIONS | INPUT_OPTIONS),
        ("## `[outcome]`", OUTCOME_OF_FILE | OUTCOME_OF_DATABASE),
        ("## `[history]`", LOG_KEYS),
        ("### Times", {"format", "iso", "epoch_s", "epoch_ms", *EXCEL_BASES}),
    ],
)
def test_each_key_of_the_grammar_is_on_the_page(heading: str, keys: set[str]) -> None:
    assert _keys(heading) == set(keys)


def test_each_section_is_named() -> None:
    assert all(f"[{section}]" in PAGE for section in SECTIONS)


def test_the_example_is_a_mapping() -> None:
    [example] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    mapping = parse_mapping("the page", tomllib.loads(example))
    assert mapping.outcome
    assert mapping.outcome.decided_at
    assert mapping.outcome.decided_at.day_ends
