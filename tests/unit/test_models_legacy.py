import io
import json
import os
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.preprocessing import StandardScaler

from features import CalendarSettings, columns_of
from leadstream.errors import UserError
from models.evaluate import legacy_sigmoid
from models.registry.versions import ModelRegistry
from models.serve.refused import Refused
from models.train.legacy import LACKS, inspect
from tests.malicious_artifacts import Call
from tests.trained_models import TRUST
from tests.unit.test_models_commands import call

DAY = 86_400_000
NOW = 1_750_000_000_000
UTC = CalendarSettings()
FORMULAS = (
    *(
        "lead_score",
        "engagement_score",
        "touchpoint_count",
        "days_since_creation",
        "created_hour",
        "score_squared",
    ),
    *(
        "score_log",
        "engagement_squared",
        "touchpoint_log",
        "score_engagement_interaction",
        "score_time_interaction",
    ),
)
CODES = ("lifecycle_state", "status", "source")


def leads(n: int = 600) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The audited features of n leads as its pipeline computed them, and the leads as states."""
    rng = np.random.default_rng(4)
    score, engagement = rng.uniform(0, 100, n), rng.uniform(0, 100, n)
    touches, age = rng.integers(0, 30, n), rng.integers(0, 200 * DAY, n)
    days = age / DAY
    table = pd.DataFrame(
        {
            "lead_score": score,
            "engagement_score": engagement,
            "touchpoint_count": touches,
            "days_since_creation": days,
            "created_hour": pd.to_datetime(NOW - age, unit="ms").hour,
            "score_squared": score**2,
            "score_log": np.log1p(score),
            "engagement_squared": engagement**2,
            "touchpoint_log": np.log1p(touches),
            "score_engagement_interaction": score * engagement,
            "score_time_interaction": score / (1 + days),
            "score_percentile": pd.Series(score).rank(pct=True),
            **{name: rng.integers(0, 4, n) for name in CODES},
        }
    )
    names = ("lead_score", "engagement_score", "touchpoint_count")
    states = [
        {
            "created_at": NOW - int(age[i]),
            **{name: float(table[name][i]) for name in names},
            "source": "web",
        }
        for i in range(n)
    ]
    return table, states


def audited(
    columns: tuple[str, ...],
    k: int | str,
    n_jobs: int | None = None,
    names: Any = list,
    **parts: Any,
) -> dict[str, Any]:
    """An artifact as AUDIT describes it: a joblib dictionary with these keys, fitted on a data
    frame.
    """
    table, _ = leads()
    X = table[list(columns)]
    y = (table["lead_score"] + np.random.default_rng(1).normal(0, 20, len(table)) > 60).astype(int)
    scaler = StandardScaler().fit(X)
    selector = SelectKBest(f_classif, k=k).fit(scaler.transform(X), y)
    forest = RandomForestClassifier(
        n_estimators=10, max_depth=10, class_weight="balanced", random_state=42, n_jobs=n_jobs
    ).fit(selector.transform(scaler.transform(X)), y)
    return {
        "model": forest,
        "scaler": scaler,
        "feature_selector": selector,
        "feature_names": names(columns),
        "performance": {
            "accuracy": 0.95,
            "roc_auc": np.float64(0.99),
            "report": "fine",
            "folds": [0.9, 0.8],
        },
        "feature_importance": dict(zip(columns, [0.1] * len(columns), strict=True)),
        **parts,
    }


def dumped(artifact: Any, compress: int = 0, protocol: int | None = None) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(artifact, buffer, compress=compress, protocol=protocol)
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(("compress", "protocol"), [(0, None), (3, None), (0, 2), (0, 3), (0, 5)])
@pytest.mark.parametrize("names", [list, np.array, pd.Index])
def test_an_audited_model_of_formulas_serves_the_very_scores_it_had(
    tmp_path: Path, compress: int, protocol: int | None, names: Any
) -> None:
    if names is pd.Index:
        names = lambda columns: pd.Index(columns, dtype=object).to_numpy()  # noqa: E731
    artifact = audited(FORMULAS, k=8, n_jobs=-1, names=names)
    found = inspect(dumped(artifact, compress, protocol), UTC, NOW)
    assert found.obstacles == ()
    assert found.trained is not None
    registry = ModelRegistry(str(tmp_path), TRUST)
    model = registry.verify(registry.publish(found.trained))
    table, states = leads()
    scaled = artifact["scaler"].transform(table[list(FORMULAS)])
    raw = (
        artifact["model"]
        .set_params(n_jobs=1)
        .predict_proba(artifact["feature_selector"].transform(scaled))[:, 1]
    )
    scores = model.score(columns_of(states), np.full(len(states), NOW), reasons=3)
    np.testing.assert_array_equal(scores.raw, raw)
    np.testing.assert_array_equal(scores.probability, legacy_sigmoid(raw))
    np.testing.assert_array_equal(scores.prediction, raw >= 0.5)
    assert (
        model.features
        == found.features
        == tuple(np.array(FORMULAS)[artifact["feature_selector"].get_support()])
    )


def test_what_it_does_not_know_it_does_not_claim(tmp_path: Path) -> None:
    found = inspect(dumped(audited(FORMULAS, k=8)), UTC, NOW)
    assert found.trained is not None
    registry = ModelRegistry(str(tmp_path), TRUST)
    manifest = registry.show(version := registry.publish(found.trained))
    _, states = leads(50)
    scores = registry.verify(version).score(columns_of(states), np.full(50, NOW))
    assert (set(scores.low), set(scores.high), set(scores.confidence)) == ({0.0}, {1.0}, {0.0})
    assert manifest["name"] == "legacy_random_forest"
    assert (manifest["calibration"]["name"], manifest["calibration"]["points"]) == (
        "legacy_sigmoid",
        0,
    )
    assert manifest["metrics"] is None
    assert manifest["legacy"]["lacks"] == list(LACKS)
    assert manifest["legacy"]["performance"] == {"accuracy": 0.95, "roc_auc": 0.99}
    assert any("scaler's mean" in sentence for sentence in manifest["legacy"]["assumed"])
    assert any("created_hour" in sentence for sentence in found.assumed) is (
        "created_hour" in found.features
    )


def test_codes_and_percentiles_without_their_books_are_not_served() -> None:
    found = inspect(dumped(audited((*FORMULAS, "score_percentile", *CODES), k=15)), UTC, NOW)
    assert found.trained is None
    codes, percentiles = found.obstacles
    assert "code books are not in the artifact: lifecycle_state, status, source" in codes
    assert "percentiles" in percentiles
    assert "score_percentile" in percentiles


def test_codes_that_the_forest_never_looks_at_stand_in_nobodys_way() -> None:
    found = inspect(dumped(audited((*FORMULAS, *CODES), k=5)), UTC, NOW)
    assert not set(CODES) & set(found.features)
    assert found.trained is not None


def test_features_that_we_do_not_have_are_named() -> None:
    artifact = audited(FORMULAS, k="all")
    artifact["feature_names"] = ["shoe_size", *FORMULAS[1:]]
    found = inspect(dumped(artifact), UTC, NOW)
    assert found.obstacles == ("it uses features that Leadstream does not have: shoe_size",)
    assert found.trained is None


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"feature_names": ["one"]}, "feature_names are neither"),
        ({"feature_names": [1] * len(FORMULAS)}, "feature_names are neither"),
        ({"scaler": StandardScaler()}, "mean_"),
        ({"performance": Call(os.system, "true")}, "would load posix.system"),
        ({"feature_importance": pd.DataFrame({"a": [1]})}, "pandas.DataFrame"),
        ({"model": "a model"}, "cannot be read"),
    ],
)
def test_what_is_no_audited_artifact_is_one_sentence(parts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        inspect(dumped(audited(FORMULAS, k=5, **parts)), UTC, NOW)


@pytest.mark.parametrize("content", [{}, {"model": 1}, [1], 3])
def test_a_file_without_the_audited_keys_is_told_what_it_lacks(content: Any) -> None:
    with pytest.raises(UserError, match="no artifact of the audited pipeline: it lacks"):
        inspect(dumped(content), UTC, NOW)


def test_trees_from_before_the_present_form_are_refused_by_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sklearn.base.__version__", "1.2.2")
    payload = dumped(audited(FORMULAS, k=5))
    with pytest.raises(
        UserError, match=r"scikit-learn 1\.2\.2, whose trees are of a form that is not read"
    ):
        inspect(payload, UTC, NOW)


def test_the_verb_lists_publishes_and_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODEL_STORE", str(tmp_path / "models"))
    monkeypatch.setenv("COLUMNS", "80")
    Path("old.joblib").write_bytes(dumped(audited(FORMULAS, k=8)))
    Path("coded.joblib").write_bytes(dumped(audited((*FORMULAS, *CODES), k=14)))
    assert call("models", "import-legacy", "old.joblib", "--dry-run") == 0
    output = capsys.readouterr()
    assert "It lacks:\n- a calibration on later outcomes" in output.out
    assert "without --dry-run it is published" in output.out
    assert not Path("models").exists()
    with pytest.raises(UserError, match="cannot be served honestly: it uses codes of categories"):
        call("models", "import-legacy", "coded.joblib")
    assert call("models", "import-legacy", "coded.joblib", "--json") == 1
    printed = json.loads(capsys.readouterr().out.split("\n{")[-1].join(["{", ""]))
    assert printed["version"] is None
    assert printed["obstacles"]
    assert call("models", "import-legacy", "old.joblib") == 0
    output = capsys.readouterr()
    assert "made a key to sign models with" in output.err
    assert "Published as version 1.0.0" in output.out
    with pytest.raises(UserError, match="its quality is unknown"):
        call("models", "promote", "1.0.0")
    assert call("models", "promote", "1.0.0", "--force") == 0
    assert call("models", "show") == 0
    assert call("models", "list") == 0
    displayed = capsys.readouterr().out
    for words in (
        "legacy_random_forest",
        "the audited formula",
        "medians",
        "assumed",
        "by the key",
        "1.0.0     champion",
    ):
        assert words in displayed
    with pytest.raises(UserError, match=r"absent\.joblib cannot be read"):
        call("models", "import-legacy", "absent.joblib")


def test_a_legacy_file_that_is_cut_off_is_refused() -> None:
    full = dumped(audited(FORMULAS, k=5))
    for n in (0, 10, len(full) // 2, len(full) - 1):
        with pytest.raises(Refused):
            inspect(full[:n], UTC, NOW)
