"""`leadstream models report` as its reader calls it."""

import json
from pathlib import Path

from tests.integration.forked import run_verb
from tests.trained_models import promoted_store

ROOT = Path(__file__).parents[2]


def test_a_report_that_only_opens_where_it_was_made_cannot_be_mailed(tmp_path: Path) -> None:
    store = promoted_store(tmp_path / "models")
    done = run_verb(
        *("models", "report", "champion", "--json"),
        folder=tmp_path,
        environ={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "MODEL_STORE": store,
            "LEADSTREAM_MODEL_VERIFY_KEYS": f"{store}.pub",
        },
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    page = Path(json.loads(done.stdout)["file"])
    assert page == tmp_path / "model-report-1.0.0.html"
    text = page.read_text("utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert text.count("<svg") == 9 + ("Population stability index" in text)
    assert "://" not in text
