"""The table of docs/reference/erasure.md states what the topics are created with."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from leadstream.kafka.topics import CONFIGS, DAY_MS, Topics

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "erasure.md"
ROWS = re.findall(r"^\| `(crm\.\S+)` \| (.*?) \| (.*?) ?\|$", PAGE.read_text("utf-8"), re.MULTILINE)


def test_a_topic_that_is_missing_would_keep_leads_that_nobody_knows_of() -> None:
    assert [topic for topic, _, _ in ROWS] == list(asdict(Topics()).values())


@pytest.mark.parametrize(("topic", "what", "gone"), ROWS, ids=[topic for topic, _, _ in ROWS])
def test_the_time_on_the_page_is_that_of_the_settings(topic: str, what: str, gone: str) -> None:
    [field] = [field for field, name in asdict(Topics()).items() if name == topic]
    config = {name: int(value) for name, value in CONFIGS[field].items() if value.isdigit()}
    if CONFIGS[field]["cleanup.policy"] == "delete":
        days = (config["retention.ms"] + config["segment.ms"]) / DAY_MS
        assert gone == f"{days:g} days"
    elif gone.endswith("days"):
        assert gone == f"{config['max.compaction.lag.ms'] / DAY_MS:g} days"
        assert f"for {config['delete.retention.ms'] / DAY_MS:g} days more" in what
    else:
        assert (what, gone) == ("nothing", "") or gone == "never"
