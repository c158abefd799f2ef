"""What passes the gate, by `leadstream train` on files of noise and of one weak signal."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.stranger_files import StrangerFile, make_file, noise_file, signal_file
from leadstream.errors import UserError
from models.registry.versions import ModelRegistry
from tests.trained_models import TRUST, write_key
from tests.unit.test_models_commands import call

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL_STORE", str(tmp_path / "models"))
    monkeypatch.setenv("LEADSTREAM_MODEL_SIGNING_KEY", str(write_key(tmp_path / "key")))
    return tmp_path


def trained(
    file: StrangerFile,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *options: str,
    mapping: str | None = None,
) -> dict[str, Any]:
    file.rows.to_csv(folder / "leads.csv", index=False)
    (folder / "leads.toml").write_text(mapping or file.mapping)
    words = ("--csv", "leads.csv", "--mapping", "leads.toml", "--recipe", "additive", "--json")
    assert call("train", *words, *options) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


@pytest.mark.parametrize("seed", [1, 2])
def test_noise_does_not_become_the_champion(
    seed: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with suppress(UserError):  # may be refused before there is a version
        printed = trained(noise_file(seed, 1_500), folder, capsys)
        assert printed["objections"]
    assert ModelRegistry(str(folder / "models"), TRUST).resolve() is None


def test_a_weak_signal_becomes_the_first_champion(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = trained(signal_file(0), folder, capsys)
    assert printed["promoted"], printed["objections"]
    assert printed["evidence"]["roc_auc"]["value"] > 0.57


def test_a_year_that_changes_its_base_rate_costs_no_ranking_and_little_calibration(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(4)
    visits = rng.normal(size=3_000)
    odds = -1.6 + 0.65 * visits + 0.9 * np.sin(5 * np.linspace(0, 1, 3_000))
    file = make_file("340 days", rng, 340, odds, visits=visits)
    printed = trained(file, folder, capsys)
    assert "created_month" in printed["inputs"]["left_out"]
    best = printed["inputs"]["best_alone"]["roc_auc"]
    assert printed["metrics"]["calibrated"]["roc_auc"] > best - 0.02
    assert printed["metrics"]["calibrated"]["ece"] < 0.1, "the newest rate is the one to go by"


def test_the_rate_of_the_population_moves_the_probability_and_is_in_the_manifest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--base-rate", "0.031", "--calibrator", "sigmoid")
    printed = trained(signal_file(1, 3_000, 0.75), folder, capsys, *options)
    registry = ModelRegistry(str(folder / "models"), TRUST)
    manifest = registry.show(printed["version"])
    assert manifest["calibration"]["base_rate"] == 0.031
    assert "0.031 of all leads convert" in manifest["label"]["definition"]
    stated = [row["probability"] for row in manifest["golden"]]
    assert 0.005 < np.mean(stated) < 0.1
    assert printed["data"]["base_rate"] > 0.14


def test_leads_that_convert_on_the_day_of_their_creation_are_not_lost(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dates have no time of day, and two of five conversions are on the day of the creation."""
    rng, day = np.random.default_rng(5), pd.Timedelta(days=1)
    file = signal_file(2, 2_000, 0.8)
    created = pd.to_datetime(file.rows["created"], unit="ms").dt.normalize()
    later = np.where(rng.random(2_000) < 0.4, 0, rng.integers(1, 60, 2_000))
    won = file.rows["won"] == 1
    decided = (created + later * day).where(won)
    form = "%d.%m.%Y"
    rows = file.rows.assign(
        created=created.dt.strftime(form), decided=decided.dt.strftime(form).fillna("")
    )
    mapping = (
        file.mapping.replace("epoch_ms", form)
        + f"""
decided_at = {{ column = "decided", format = "{form}" }}
[file]
time_zone = "Asia/Kolkata"
"""
    )
    dated = StrangerFile(file.name, rows)
    printed = trained(dated, folder, capsys, mapping=mapping)
    assert (printed["refused"], printed["data"]["rows"]) == ([], 2_000)
    assert printed["data"]["conversions"] == won.sum()
    within = trained(dated, folder, capsys, "--horizon", "7", mapping=mapping)
    known = created + 7 * day < max(decided.max() + day, created.max())
    assert within["data"]["rows"] == known.sum()
    assert within["data"]["conversions"] == (won & (later < 7))[known].sum()
