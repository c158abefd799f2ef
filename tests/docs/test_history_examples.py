"""The examples of reading the history give what is in its tables."""

import re
from pathlib import Path

import pytest

from leadstream.kafka.batch import Output
from tests.fakes import MemoryBroker
from tests.histories import CHANGES, MemoryHistory
from tests.unit.pipelines import NOW_MS
from tests.unit.test_history_writer import changed, decided, scored

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "keep-history.md"
EXAMPLES = dict(re.findall(r"^### ([^\n]+)\n+```python\n(.*?)```", PAGE.read_text(), re.M | re.S))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_that_does_not_run_fails_its_reader(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in re.findall(r"^import (\w+)", EXAMPLES[name], re.M):
        pytest.importorskip(package)
    broker = MemoryBroker(now=NOW_MS)
    for lead in ("a", "b"):
        for output in (changed(lead), scored(lead), decided(lead)):
            broker.append(output)
    broker.append(Output(CHANGES, b"junk", b"junk"))
    MemoryHistory(broker, tmp_path).write()
    exec(EXAMPLES[name].replace("/srv/history", str(tmp_path)), {})
    assert re.search(r"\b(2|0\.25)\b", capsys.readouterr().out)


def test_the_page_has_the_examples_that_it_promises() -> None:
    assert list(EXAMPLES) == ["pandas", "DuckDB", "Polars"]
