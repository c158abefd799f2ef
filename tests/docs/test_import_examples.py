"""The examples of importing a history print what the page says, and write it."""

import re
import shlex
from pathlib import Path

import pytest
from deltalake import DeltaTable

from leadstream.cli.main import main
from tests.histories import stored

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "import-history.md").read_text()
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
RUN = re.compile(r"```console\n\$ leadstream (history import .*?)\n```\n\n```text\n(.*?)```", re.S)
EXAMPLES = [name for name, text in SECTIONS.items() if RUN.search(text)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_that_prints_something_else_misleads_its_reader(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEADSTREAM_HISTORY", str(tmp_path / "history"))
    for file, text in re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)```", SECTIONS[name], re.M | re.S):
        (tmp_path / file).write_text(text)
    found = RUN.search(SECTIONS[name])
    assert found is not None
    command = shlex.split(found[1].replace("\\\n", " "))
    assert main(command) == 0
    assert capsys.readouterr().out == found[2]
    rows = stored(tmp_path / "history", "changes")
    assert rows
    assert {row["state_source"] for row in rows} == {"import"}
    assert main(command) == 0
    assert stored(tmp_path / "history", "changes") == rows
    assert re.search(r"\d+ there already", capsys.readouterr().out)


def test_the_example_of_deleting_an_import_leaves_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEADSTREAM_HISTORY", str(tmp_path / "history"))
    (tmp_path / "m.toml").write_text('[lead]\nlead_id = "id"\ncreated_at = "at"\n')
    (tmp_path / "rows.csv").write_text("id,at\nada,2025-01-05\n")
    command = ["history", "import", "rows.csv", "--format", "rows", "--mapping", "m.toml"]
    assert main(command) == 0
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(code.replace("/srv/history", str(tmp_path / "history")), {})
    assert DeltaTable(f"{tmp_path}/history/changes").to_pyarrow_table().num_rows == 0
    assert main(command) == 0
    assert len(stored(tmp_path / "history", "changes")) == 1
