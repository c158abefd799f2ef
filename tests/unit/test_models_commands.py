import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features import columns_of
from leadstream.cli import models as models_command
from leadstream.cli import retrain as retrain_command
from leadstream.cli import train as train_command
from leadstream.errors import SettingsError, UserError
from leadstream.settings import Settings, load_settings
from models.evaluate import metrics
from models.monitor.ledger import DAY_MS, LabeledPrediction, PublishedPrediction
from models.registry.signing import load_trust
from models.registry.store import Store
from models.registry.versions import ModelRegistry
from producer.importer import ImportedRow, read_rows, read_table, select
from producer.mapping import load_mapping
from tests.trained_models import TRUST, trained, write_key
from tests.unit.test_models_train import leads

pytestmark = pytest.mark.slow

XEDUCATION = Path("../shared/data/xeducation_leads.csv")
MAPPING = """
[lead]
lead_id = "lead_id"
created_at = { column = "created_at", format = "epoch_ms" }
occurred_at = { column = "as_of", format = "epoch_ms" }
lead_score = "lead_score"
source = "source"
[outcome]
column = "converted"
true = ["True"]
false = ["False"]
decided_at = { column = "decided_at", format = "epoch_ms" }
"""


def call(*words: str) -> int:
    """Run a verb as the command line does."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers()
    for module in (train_command, retrain_command, models_command):
        module.add_parser(verbs)
    given = parser.parse_args(words)
    return int(given.func(given))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty model store in the settings, with the tests' key, at 80 columns, away from any .env
    file.
    """
    url = str(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL_STORE", url)
    monkeypatch.setenv("LEADSTREAM_MODEL_SIGNING_KEY", str(write_key(tmp_path / "key")))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    return url


def decided(table: pd.DataFrame, days: int = 1) -> pd.DataFrame:
    """The table with the moment of each decision, so many days after the row."""
    return table.assign(decided_at=table["as_of"] + days * DAY_MS)


@pytest.fixture
def export(tmp_path: Path) -> tuple[str, ...]:
    """The words that train from a small export with one bad row."""
    table = decided(leads(900))
    table.to_csv(tmp_path / "leads.csv", index=False)
    with (tmp_path / "leads.csv").open("a") as file:
        file.write("bad row\n")
    (tmp_path / "map.toml").write_text(MAPPING)
    few = (
        "--least-leads",
        "200",
        "--least-conversions",
        "20",
        "--recipe",
        "audited",
        "--calibrator",
        "sigmoid",
    )
    return (
        "train",
        "--csv",
        str(tmp_path / "leads.csv"),
        "--mapping",
        str(tmp_path / "map.toml"),
        *few,
    )


def test_the_first_version_serves_by_itself_and_the_next_only_when_told(
    store: str, export: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*export) == 0
    first = capsys.readouterr()
    assert "Version 1.0.0 is the champion, the first one." in first.out
    assert "refused: 1 of 901 rows, first on line 902: " in first.err
    for word in (
        "calibrated",
        "raw score",
        "audited formula",
        "ROC-AUC",
        "Brier score",
        "ECE, 15 bins",
    ):
        assert word in first.out
    assert max(map(len, first.out.splitlines())) <= 80
    assert call(*export, "--seed", "1") == 0
    assert "To serve this one: leadstream models promote 1.1.0" in capsys.readouterr().out
    assert ModelRegistry(store, TRUST).resolve() == "1.0.0"
    assert call(*export, "--promote") == 0
    assert "Version 1.2.0 is the champion; before it was 1.0.0." in capsys.readouterr().out


def test_a_file_that_is_misread_stops_the_training_with_the_reason_and_its_fix(
    store: str, export: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = list(export)
    (tmp_path / "map.toml").write_text(
        '[lead]\nlead_id = "id"\ncreated_at = "at"\n'
        '[outcome]\ncolumn = "won"\ntrue = ["1"]\nfalse = ["0"]\n'
    )
    lines = [f"L{i},{i % 28 + 1:02}/04/2021 12:03 AM,{i % 2}" for i in range(300)]
    lines[::10] = [f"L{i},2021-04-15,1" for i in range(0, 300, 10)]
    (tmp_path / "leads.csv").write_text("\n".join(["id,at,won", *lines]))
    with pytest.raises(UserError, match=r"training stops: 270 of 300 rows of leads\.csv were ref"):
        call(*words, "--json")
    out, err = capsys.readouterr()
    sentence = " ".join(err.split())
    assert (
        "refused: 270 of 300 rows, first on line 3: `at` is not a time in the format of the "
        'mapping (it looks like 02/04/2021 12:03 AM); add format = "%d/%m/%Y %I:%M %p" to '
        "lead.created_at"
    ) in sentence
    assert json.loads(out)["file"]["refused_groups"][0]["rows"] == 270
    assert ModelRegistry(store, TRUST).versions() == []
    fixed = '{ column = "at", format = ["%d/%m/%Y %I:%M %p", "%Y-%m-%d"] }'
    mapping = (tmp_path / "map.toml").read_text().replace('"at"', fixed)
    (tmp_path / "map.toml").write_text(mapping)
    with pytest.raises(UserError, match="leads"):  # there are too few
        call(*words)
    assert "refused:" not in capsys.readouterr().err


def test_what_train_prints_as_json_a_program_can_read(
    store: str, export: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*export, "--json", "--oldest", "0.8", "--horizon", "5") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["version"], printed["promoted"], printed["champion"]) == (
        "1.0.0",
        True,
        "1.0.0",
    )
    assert printed["refused"] == [{"line": 902, "problem": printed["refused"][0]["problem"]}]
    assert printed["data"]["rows"] == 680
    assert printed["left_out"] == {"young": 40, "undated": 0}
    assert set(printed["metrics"]) == {"calibrated", "raw", "legacy_sigmoid"}
    assert ModelRegistry(store, TRUST).show("1.0.0")["label"]["horizon_days"] == 5


def test_recipe_calibrator_policy_and_grades_are_those_that_were_asked_for(
    store: str, export: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (
        "--recipe",
        "forest",
        "--calibrator",
        "sigmoid",
        "--threshold-policy",
        "cost:4",
        "--grade-cuts",
        "0.6,0.4,0.2",
    )
    assert call(*export, *asked) == 0
    assert "Calibrator sigmoid" in capsys.readouterr().out
    manifest = ModelRegistry(store, TRUST).show("1.0.0")
    assert manifest["recipe"]["name"] == "forest"
    assert manifest["calibration"]["name"] == "sigmoid"
    assert manifest["threshold"] == {
        "value": 0.2,
        "policy": "1 / (1 + 4): a missed lead costs 4 times what a wasted call does",
    }
    assert manifest["grades"]["cuts"] == {"A": 0.6, "B": 0.4, "C": 0.2}
    assert call(*export, "--recipe", "boosting", "--threshold-policy", "capacity:0.2") == 0
    assert ModelRegistry(store, TRUST).show("1.1.0")["name"] == "gradient_boosting"


def test_only_the_own_fields_of_the_specification_file_become_features(
    store: str, export: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = '[lead.numbers]\nscore = "lead_score"\nengaged = "engagement_score"\n'
    (tmp_path / "map.toml").write_text(MAPPING.replace("[outcome]", f"{own}[outcome]"))
    file = tmp_path / "features.toml"
    file.write_text('[[feature]]\nname = "engaged"\ntype = "number"\nrange = [0, 100]\n')
    assert call(*export, "--features", str(file), "--json") == 0
    names = ModelRegistry(store, TRUST).show("1.0.0")["features"]["names"]
    assert "numbers.engaged" in names
    assert "numbers.score" not in names
    file.write_text('[[feature]]\nname = "visits"\ntype = "number"\n')
    with pytest.raises(
        SettingsError, match=r"features.toml names numbers.visits, which .*map.toml does not read"
    ):
        call(*export, "--features", str(file))
    file.write_text("[[feature]]\n")
    with pytest.raises(SettingsError, match=r"features.toml: feature 1: name is missing"):
        call(*export, "--features", str(file))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("train", "--csv", "x.csv"), "--csv needs --mapping"),
        (("train", "--postgres", "--mapping", "x.toml"), "go with --csv"),
        (("train", "--postgres"), "DATABASE_URL is not set"),
        (("train", "--postgres", "--threshold-policy", "best"), "'best' is no threshold policy"),
        (("train", "--postgres", "--grade-cuts", "1,2,3"), "are no grade cuts"),
        (("train", "--csv", "x.csv", "--mapping", "none.toml"), r"none\.toml"),
    ],
)
def test_wrong_usage_of_train_is_one_sentence(
    store: str, words: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        call(*words)


def test_without_a_model_store_the_setting_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODEL_STORE", raising=False)
    for words in (export, ("models", "list")):
        with pytest.raises(SettingsError, match="MODEL_STORE is not set"):
            call(*words)


@pytest.mark.parametrize("rate", ["0", "1", "nan", "1e-9", ".999999", "3%"])
def test_a_base_rate_that_no_population_has_is_refused_with_the_range(
    rate: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call("train", "--csv", "x.csv", "--mapping", "x.toml", "--base-rate", rate)
    assert f"'{rate}' is not a rate from 0.00001 to 0.99999" in capfd.readouterr().err


@pytest.mark.parametrize("days", ["0", "-1", "nan", "inf", "soon"])
def test_a_horizon_that_is_no_number_of_days_is_refused(days: str) -> None:
    with pytest.raises(SystemExit):
        call("train", "--postgres", "--horizon", days)


def test_the_verbs_of_models_list_show_promote_roll_back_and_verify(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def predicted(*words: str) -> str:
        assert call("models", *words) == 0
        out = capsys.readouterr().out
        assert "--json" in words or max(map(len, out.splitlines())) <= 80
        return out

    def json_of(*words: str) -> Any:
        return json.loads(predicted(*words, "--json"))

    assert "There is no model" in predicted("list")
    registry = ModelRegistry(store, TRUST)
    for seed in (1, 2):
        registry.publish(trained(seed))
    assert "The champion is 1.0.0 now; before it was not set." in predicted("promote", "1.0.0")
    assert "The champion was 1.0.0 already." in predicted("promote", "1.0.0")
    assert json_of("promote", "1.1.0") == {
        "alias": "champion",
        "version": "1.1.0",
        "promoted": True,
        "before": "1.0.0",
    }
    assert "1.1.0     champion" in predicted("list")
    assert [(row["version"], row["aliases"]) for row in json_of("list")] == [
        ("1.1.0", ["champion"]),
        ("1.0.0", []),
    ]
    displayed = predicted("show")
    for words in (
        "1.1.0 (random_forest)",
        "RandomForestClassifier",
        "within 60 days",
        "largest F1",
        "ROC-AUC",
    ):
        assert words in displayed
    assert json_of("show", "1.0.0") == registry.show("1.0.0")
    assert "The champion is 1.0.0 again; before it was 1.1.0." in predicted("rollback")
    assert "Version 1.0.0 verifies: signed by the key" in predicted("verify")
    assert json_of("verify", "1.1.0")["ok"] is True


def test_retrain_does_as_the_champion_did_and_the_gate_decides_whether_it_serves(
    store: str, export: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = export[1:5]
    few = ("--least-leads", "200", "--least-conversions", "20")
    with pytest.raises(
        UserError, match=r"there is no champion .* leadstream train makes the first"
    ):
        call("retrain", *source, *few)
    assert call(*export, "--threshold-policy", "capacity:0.2", "--horizon", "5", "--seed", "5") == 0
    capsys.readouterr()
    # The same leads again: judged on the same period, the two are equal, and nothing speaks against
    # the new one.
    assert call("retrain", *source, *few, "--promote", "--json") == 0
    predicted = json.loads(capsys.readouterr().out)
    assert (predicted["version"], predicted["promoted"], predicted["objections"]) == (
        "1.1.0",
        True,
        [],
    )
    registry = ModelRegistry(store, TRUST)
    first, again = registry.show("1.0.0"), registry.show("1.1.0")
    for part in ("options", "label", "recipe", "features", "threshold"):
        assert again[part] == first[part], part
    # Newer leads without outcomes enough to tell are no reason to replace a champion.
    by = 400 * 86_400_000
    table = leads(900, seed=3).assign(lead_id=lambda rows: rows["lead_id"] + "-later")
    newer = table.assign(as_of=table["as_of"] + by, created_at=table["created_at"] + by)
    decided(newer).to_csv(tmp_path / "leads.csv", index=False)
    assert call("retrain", *source, *few, "--promote") == 1
    predicted = capsys.readouterr()
    assert "Not promoted: only 172 rows with their outcome" in predicted.err
    assert (
        "The champion is still 1.1.0. To serve this one: leadstream models promote 1.2.0 --force"
        in predicted.out
    )
    assert registry.resolve() == "1.1.0"
    assert call("models", "promote", "1.2.0", "--json") == 1
    assert json.loads(capsys.readouterr().out)["promoted"] is False
    assert call("models", "promote", "1.2.0", "--force") == 0
    capsys.readouterr()
    assert call("models", "log") == 0
    displayed = capsys.readouterr().out
    assert max(map(len, displayed.splitlines())) <= 80
    assert "champion: promote 1.1.0 → 1.2.0, by " in displayed
    assert "forced although only 172 rows" in " ".join(displayed.split())
    assert call("models", "log", "--json") == 0
    assert [move["to"] for move in json.loads(capsys.readouterr().out)] == [
        "1.0.0",
        "1.1.0",
        "1.2.0",
    ]


def test_a_damaged_version_fails_verify_and_does_not_hide_the_others(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = ModelRegistry(store, TRUST)
    for seed in (1, 2):
        registry.publish(trained(seed))
    Store(store).replace("versions/1.0.0/manifest.json", b"{")
    Store(store).replace("versions/1.1.0/model.joblib", b"")
    assert call("models", "list", "--json") == 0
    rows = {row["version"]: row for row in json.loads(capsys.readouterr().out)}
    assert "refused" in rows["1.0.0"]
    assert rows["1.1.0"]["roc_auc"] > 0.5
    assert call("models", "list") == 0
    assert "cannot be read" in capsys.readouterr().out
    assert call("models", "verify", "1.1.0", "--json") == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False
    for words in (("verify", "1.1.0"), ("promote", "1.1.0"), ("show", "1.0.0")):
        with pytest.raises(UserError, match="model version"):
            call("models", *words)


def test_keygen_makes_a_pair_that_signs_and_verifies_and_never_replaces_one(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "keys" / "mine.pem"
    monkeypatch.setenv("LEADSTREAM_MODEL_SIGNING_KEY", str(key))
    with pytest.raises(
        SettingsError, match=r"mine\.pem cannot be read .* `leadstream models keygen` makes one"
    ):
        call("train", "--postgres")
    assert call("models", "keygen", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["private"], made["public"]) == (str(key), f"{key}.pub")
    ModelRegistry(store, load_trust(load_settings(), signs=True)).publish(trained())
    assert call("models", "verify", "1.0.0", "--json") == 0
    assert json.loads(capsys.readouterr().out)["signed_by"] == made["key"]
    with pytest.raises(SettingsError, match="File exists"):
        call("models", "keygen")


def test_a_version_that_a_stranger_signed_is_not_promoted_and_show_says_so(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ModelRegistry(store, TRUST).publish(trained())
    monkeypatch.setenv("LEADSTREAM_MODEL_SIGNING_KEY", str(tmp_path / "mine.pem"))
    call("models", "keygen")
    with pytest.raises(UserError, match="it is signed with the key"):
        call("models", "promote", "1.0.0")
    assert call("models", "show", "1.0.0") == 0
    assert "VERIFY_KEYS does not name" in capsys.readouterr().out.replace("\n", "").replace(
        " " * 13, " "
    )


def test_an_alias_that_was_never_set_is_one_sentence(store: str) -> None:
    with pytest.raises(UserError, match="the alias champion points to no version"):
        call("models", "show")


def test_a_challenger_starts_and_ends_by_its_alias(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = ModelRegistry(store, TRUST)
    registry.publish(trained())
    call("models", "promote", "1.0.0", "--alias", "challenger")
    capsys.readouterr()
    assert call("models", "retire") == 0
    assert "There is no challenger now; it was 1.0.0." in capsys.readouterr().out
    registry.promote("1.0.0", "spare")
    assert call("models", "retire", "--alias", "spare", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "alias": "spare",
        "version": None,
        "before": "1.0.0",
    }
    for words, sentence in (
        ((), "points to no version"),
        (("--alias", "champion"), "cannot be retired"),
    ):
        with pytest.raises(UserError, match=sentence):
            call("models", "retire", *words)


# After all that the models of these tests learned from, ms UTC.
UNLEARNED = 1_800_000_000_000


def history(leads: int, champion: float, challenger: float) -> list[LabeledPrediction]:
    """What 1.0.0 and 1.1.0 said in the shadow of leads of which 2 in 5 converted, and of one lead
    each in a split.
    """
    predicted = [(f"{i}", "1.0.0", "champion", False, champion, i % 5 < 2) for i in range(leads)]
    predicted += [
        (f"{i}", "1.1.0", "challenger", True, challenger, i % 5 < 2) for i in range(leads)
    ]
    predicted += [
        ("a", "1.1.0", "challenger", False, 0.4, False),
        ("b", "1.0.0", "champion", False, 0.4, False),
    ]
    # Nobody compares this one: it tells that the outcomes have come as far as day 62.
    predicted += [("c", "0.9.0", "champion", False, 0.4, False)]
    return [
        LabeledPrediction(
            PublishedPrediction(lead, lead, UNLEARNED, version, variant, shadow, probability, 0.5),
            converted,
            UNLEARNED + (62 if version == "0.9.0" else 1) * DAY_MS,
        )
        for lead, version, variant, shadow, probability, converted in predicted
    ]


@pytest.fixture
def two(store: str, monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    """A champion 1.0.0 and a challenger 1.1.0; brokers let in whoever asks."""
    monkeypatch.setattr(
        "leadstream.kafka.connection_check.ConnectionCheck.__init__", lambda *_: None
    )
    monkeypatch.setattr("leadstream.kafka.connection_check.ConnectionCheck.check", lambda _: None)
    registry = ModelRegistry(store, TRUST)
    for seed, alias in ((1, "champion"), (2, "challenger")):
        registry.promote(registry.publish(trained(seed)), alias)
    return registry


@pytest.mark.parametrize(
    ("leads", "champion", "challenger", "words"),
    [
        (
            2_000,
            0.9,
            0.4,
            ("Better, on 2,000 leads that both scored", "leadstream models promote 1.1.0"),
        ),
        (2_000, 0.4, 0.9, ("Worse, on 2,000 leads that both scored", "leadstream models retire")),
        (2_000, 0.4, 0.4, ("Not yet, on 2,000 leads", "Ask again after more outcomes")),
        (1, 0.4, 0.9, ("Not yet, on 1 leads", "Brier score")),
    ],
)
def test_the_verdict_is_a_sentence_with_what_to_do_and_the_figures_of_both(
    two: ModelRegistry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    leads: int,
    champion: float,
    challenger: float,
    words: tuple[str, ...],
) -> None:
    asked = {}

    def read_evaluated(
        _settings: Settings, horizon_days_of: Any, progress: Any
    ) -> list[LabeledPrediction]:
        asked.update({version: horizon_days_of(version) for version in ("1.0.0", "1.1.0", "0.9.0")})
        progress(1)
        return history(leads, champion, challenger)

    monkeypatch.setattr("consumer.outcomes.reader.read_evaluated", read_evaluated)
    assert call("models", "compare") == 0
    out = capsys.readouterr().out
    for word in (
        *words,
        "1.0.0",
        "1.1.0",
        "champion",
        "challenger",
        "log loss",
        "ROC-AUC",
        "ECE, 15 bins",
    ):
        assert word in out
    assert (
        f"{((challenger - 0.4) ** 2 - (champion - 0.4) ** 2) if leads > 1 else -0.35:+.4f}" in out
    )
    assert max(map(len, out.splitlines())) <= 80
    assert asked == {"1.0.0": 60, "1.1.0": 60, "0.9.0": None}


def test_a_comparison_as_json_a_program_can_read(
    two: ModelRegistry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "consumer.outcomes.reader.read_evaluated", lambda *_, **__: history(2_000, 0.9, 0.4)
    )
    assert call("models", "compare", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["verdict"], printed["mode"], printed["n"]) == ("better", "shadow", 2_000)
    assert (printed["champion"], printed["challenger"]) == ("1.0.0", "1.1.0")
    assert printed["difference"] == pytest.approx(-0.25)
    assert printed["low"] < printed["difference"] < printed["high"] < 0
    assert printed["figures"]["challenger"]["brier"] == pytest.approx(0.24)
    assert call("models", "compare", "--mode", "split", "--json") == 0
    split = json.loads(capsys.readouterr().out)
    assert (split["verdict"], split["mode"], split["n"]) == ("not yet", "split", 1)
    monkeypatch.setattr("consumer.outcomes.reader.read_evaluated", lambda *_, **__: [])
    assert call("models", "compare") == 0
    out = capsys.readouterr().out
    assert (
        "A lead counts once 60 days have passed since its prediction.\nThe topics must keep" in out
    )
    assert max(map(len, out.splitlines())) <= 80


def test_what_cannot_be_compared_is_one_sentence(
    two: ModelRegistry, store: str, export: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*export, "--horizon", "30") == 0
    for words, sentence in (
        (
            ("--challenger", "1.2.0"),
            r"1\.0\.0 predicts what happens within 60 days, 1\.2\.0 .* within 30 days",
        ),
        (("--challenger", "champion"), "1.0.0 is both champion and challenger"),
        (("--challenger", "9.9.9"), "there is no model version 9.9.9"),
        (("--champion", "spare"), "the alias spare points to no version"),
    ):
        with pytest.raises(UserError, match=sentence):
            call("models", "compare", *words)


@pytest.mark.data
def test_real_leads_of_later_months_are_ranked_and_told_their_rate() -> None:
    if not XEDUCATION.exists():
        pytest.skip(f"{XEDUCATION} is not here")
    from features import specify
    from models.serve import artifact
    from models.train.training import TrainOptions, train

    mapping = load_mapping(Path("producer/mappings/xeducation.toml"))
    table, problems = read_table(XEDUCATION, mapping, oldest=0.8)
    own = specify(numbers=tuple(mapping.numbers), categories=tuple(mapping.categories))
    done = train(table, TrainOptions(specification=own, recipe="audited", created_at=0))
    payload = artifact.dump(done.artifact)
    model = artifact.load(
        payload, {**done.manifest, "version": "1.0.0", "artifact": artifact.describe(payload)}
    )
    newest = select(
        [row for row in read_rows(XEDUCATION, mapping) if isinstance(row, ImportedRow)], newest=0.2
    )
    scores = model.score(
        columns_of([row.state for row in newest]), np.array([row.occurred_at for row in newest])
    )
    judged = metrics(
        scores.probability, np.array([bool(row.converted) for row in newest]), scores.threshold
    )
    assert not problems
    assert len(newest) == 1848
    assert (judged["roc_auc"] or 0) >= 0.86
    assert (judged["brier"] or 1) <= 0.15
    assert (judged["ece"] or 1) <= 0.06
