"""The comparison of a trial from the history is that of the records themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leadstream.errors import UserError
from leadstream.kafka.batch import Output
from models.monitor.compare import compare
from models.monitor.ledger import DAY_MS
from schemas.codec import Writer
from tests.histories import PREDICTIONS, SHADOW, TOPICS
from tests.subscriber import prediction
from tests.unit.pipelines import NOW_MS
from tests.unit.test_history_training import decided, written

pytest.importorskip("duckdb")

from consumer.history.trial_pairs import Trial, compare_trial

_PREDICTION = Writer("LeadPrediction")
HORIZON = 30.0
SINCE = NOW_MS - 100 * DAY_MS
TRIAL = Trial("1.0.0", "1.1.0", HORIZON, SINCE, after=SINCE - 50 * DAY_MS)


def scored(lead_id: str, day: float, probability: float, *, shadow: bool, **fields: Any) -> Output:
    """A prediction of one of the two versions, some days after the beginning of the trial."""
    at = SINCE + round(day * DAY_MS)
    record = prediction(lead_id) | {
        "probability": probability,
        "event_id": f"{lead_id} {day}",
        "model_version": TRIAL.challenger if shadow else TRIAL.champion,
        "variant": "challenger" if shadow else "champion",
        "occurred_at": at,
        "scored_at": at + 1,
    }
    topic = SHADOW if shadow else PREDICTIONS
    return Output(topic, lead_id.encode(), _PREDICTION.encode(record | fields))


def both(lead_id: str, day: float, ours: float, theirs: float, **fields: Any) -> list[Output]:
    return [
        scored(lead_id, day, ours, shadow=False, **fields),
        scored(lead_id, day, theirs, shadow=True, **fields),
    ]


def won(lead_id: str, day: float, converted: bool = True) -> Output:
    return decided(lead_id, SINCE + round(day * DAY_MS), converted)


def test_each_lead_counts_once_by_its_first_change_that_both_scored_and_only_with_a_full_label(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    records = [won("before all", -60), won("the newest", 92)]
    differences = []
    for number in range(120):
        lead, day = f"lead {number}", float(rng.uniform(0, 55))
        ours, theirs = rng.uniform(0.05, 0.9, 2)
        converted = bool(rng.random() < theirs)
        records += both(lead, day, ours, theirs)
        records += both(lead, day + 3, 0.99, 0.01)  # a later change of the same lead
        if converted:
            records.append(won(lead, day + rng.uniform(0.1, 29)))
        elif number % 2:
            records.append(won(lead, day + 31))  # too late
        differences.append((theirs - converted) ** 2 - (ours - converted) ** 2)
    records += [
        *both("young", 70, 0.1, 0.9),
        won("young", 71),
        *both("decided before", 10, 0.1, 0.9),
        won("decided before", 9),
        scored("only the champion", 10, 0.1, shadow=False),
        won("only the champion", 11),
        *both("another version", 10, 0.1, 0.9, model_version="0.9.0"),
        won("another version", 11),
        *both("scored before", 10, 0.1, 0.9, scored_at=SINCE - 1),
        won("scored before", 11),
        *both("learned", -50, 0.1, 0.9, scored_at=SINCE),
        won("learned", -49),
        *both("erased", 10, 0.1, 0.9),
        won("erased", 11),
        Output(PREDICTIONS, b"erased", None),
    ]
    written(tmp_path, [*records, *records[: len(records) // 2]])
    found = compare_trial(str(tmp_path), TOPICS, TRIAL)
    expected = compare(np.array(differences))
    assert found.n == len(differences)
    assert found.difference == pytest.approx(expected.difference, abs=1e-12)
    assert found.e_better == pytest.approx(expected.e_better, rel=1e-9)
    assert found.result == expected.result == "better"


def test_a_history_without_predictions_is_one_sentence_and_one_without_pairs_is_not_yet(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match="no history of predictions and outcomes"):
        compare_trial(str(tmp_path / "none"), TOPICS, TRIAL)
    written(tmp_path / "empty", [won("a", 1)])
    found = compare_trial(str(tmp_path / "empty"), TOPICS, TRIAL)
    assert (found.n, found.result) == (0, "not yet")
