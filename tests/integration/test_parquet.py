"""The same leads as CSV and as Parquet, by the verbs that read files."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.integration.forked import run_verb
from tests.trained_models import write_key
from tests.unit.test_models_commands import MAPPING, decided
from tests.unit.test_models_train import leads

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """leads.csv and leads.parquet of the same rows, map.toml, and a key."""
    table = decided(leads(1500))[
        ["lead_id", "created_at", "as_of", "lead_score", "source", "converted", "decided_at"]
    ]
    table.to_csv(tmp_path / "leads.csv", index=False)
    parquet.write_table(
        pa.Table.from_pandas(table, preserve_index=False),
        tmp_path / "leads.parquet",
        row_group_size=400,
    )
    (tmp_path / "map.toml").write_text(
        MAPPING.replace('"True"', '"True", "true"').replace('"False"', '"False", "false"')
    )
    write_key(tmp_path / "key")
    return tmp_path


def leadstream(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return run_verb(
        *words,
        folder=folder,
        environ={
            "PATH": "/usr/bin:/bin",
            "MODEL_STORE": "models",
            "LEADSTREAM_MODEL_SIGNING_KEY": str(folder / "key.pem"),
        },
    )


def test_the_same_leads_in_another_file_format_must_not_be_another_model(folder: Path) -> None:
    for words in (("--csv", "leads.csv"), ("--parquet", "leads.parquet")):
        done = leadstream(folder, "train", *words, "--mapping", "map.toml", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["refused"] == []
    sums = {
        json.loads((folder / "models" / "versions" / version / "manifest.json").read_text())[
            "artifact"
        ]["sha256"]
        for version in ("1.0.0", "1.1.0")
    }
    assert len(sums) == 1


def test_the_same_leads_in_another_file_format_must_not_be_other_events(folder: Path) -> None:
    def report(file: str) -> Any:
        done = leadstream(
            folder, "import", file, "--mapping", "map.toml", "--dry-run", "--outcomes", "--json"
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert report("leads.csv") == report("leads.parquet")
    assert report("leads.parquet")["changes"] == report("leads.parquet")["outcomes"] == 1500


def test_a_csv_called_parquet_is_one_sentence(folder: Path) -> None:
    done = leadstream(folder, "train", "--parquet", "leads.csv", "--mapping", "map.toml")
    assert done.returncode == 1
    stage, sentence = done.stderr.splitlines()
    assert stage == "reading leads ..."
    assert sentence.startswith("leadstream: leads.csv: is not Parquet that can be read (")
    assert leadstream(folder, "train", "--parquet", "leads.parquet").returncode == 2
