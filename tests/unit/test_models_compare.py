"""Who looks after every outcome must not be fooled more often than who looks once."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from models.monitor.compare import (
    ALPHA,
    ComparisonResult,
    capital,
    capitals,
    compare,
    fully_labeled,
    quality,
    shadow_pairs,
    split_pairs,
    without_learned,
)
from models.monitor.ledger import DAY_MS, LabeledPrediction, PublishedPrediction

pytestmark = pytest.mark.slow

Floats = NDArray[np.float64]

NEEDED = math.log(2 / ALPHA)
OUTCOMES = 5_000
RUNS = 300


def differences(
    rng: np.random.Generator, n: int, champion_error: float, challenger_error: float
) -> Floats:
    """Brier scores, challenger minus champion, of two models that know the true rate but for an
    error of their own.
    """
    rate = rng.beta(1, 4, n)
    converted = rng.random(n) < rate
    champion, challenger = (
        np.clip(rate + rng.normal(0, error, n), 0, 1)
        for error in (champion_error, challenger_error)
    )
    difference: Floats = (challenger - converted) ** 2 - (champion - converted) ** 2
    return difference


def ever(run: Floats) -> bool:
    """Whether who looks after every outcome is told better or worse at any of them."""
    return bool(max(capitals(run).max(), capitals(-run).max()) >= NEEDED)


def ever_by_p_value(run: Floats) -> bool:
    """The wrong design: a t-test after every outcome from the 30th on, at the same level."""
    n = np.arange(1, len(run) + 1)
    mean = run.cumsum() / n
    spread = (run**2).cumsum() / n - mean**2
    return bool((np.abs(mean)[30:] > 1.96 * np.sqrt(spread[30:] / n[30:])).any())


def test_of_equal_models_one_is_ever_called_better_in_one_of_twenty_trials_at_most() -> None:
    rng = np.random.default_rng(20)
    runs = [differences(rng, OUTCOMES, 0.1, 0.1) for _ in range(RUNS)]
    assert np.mean([ever(run) for run in runs]) <= ALPHA
    # The same look with p-values: were it the design, this test would have failed.
    assert np.mean([ever_by_p_value(run) for run in runs]) > 6 * ALPHA


@pytest.mark.parametrize(("rare", "size"), [(0.01, 0.99), (0.001, 1.0), (0.2, 0.04)])
def test_rare_large_losses_that_even_out_many_small_gains_do_not_make_a_model_better(
    rare: float, size: float
) -> None:
    rng = np.random.default_rng(21)
    small = rare * size / (1 - rare)
    runs = [np.where(rng.random(OUTCOMES) < rare, size, -small) for _ in range(RUNS)]
    assert np.mean([ever(run) for run in runs]) <= ALPHA


def test_a_model_whose_brier_score_is_lower_by_015_is_found_within_2_000_outcomes() -> None:
    rng = np.random.default_rng(22)
    found = [
        compare(differences(rng, 2_000, champion_error=0.15, challenger_error=0.05)).result
        for _ in range(100)
    ]
    assert found.count(ComparisonResult.BETTER) >= 95
    assert ComparisonResult.WORSE not in found


def test_a_worse_challenger_is_called_worse() -> None:
    rng = np.random.default_rng(23)
    assert (
        compare(differences(rng, 2_000, champion_error=0.05, challenger_error=0.15)).result
        is ComparisonResult.WORSE
    )


def test_the_interval_holds_the_true_difference_at_every_look() -> None:
    rng = np.random.default_rng(24)
    true = differences(rng, 2_000_000, 0.15, 0.1).mean()
    missed = 0
    for _ in range(RUNS):
        run = differences(rng, 1_000, 0.15, 0.1)
        # The interval misses where a bet against the true difference has paid.
        missed += max(capitals(run, true).max(), capitals(-run, -true).max()) >= NEEDED
    assert missed / RUNS <= ALPHA


def test_interval_and_verdict_must_never_contradict_each_other() -> None:
    rng = np.random.default_rng(25)
    for n in (1, 10, 100, 500, 1_000):
        for champion_error in (0.05, 0.1, 0.2, 0.4):
            found = compare(differences(rng, n, champion_error, 0.1))
            assert -1 <= found.low <= found.difference <= found.high <= 1
            assert (
                (found.high < 0)
                == (found.result is ComparisonResult.BETTER)
                == (found.e_better >= 2 / ALPHA)
            )
            assert (
                (found.low > 0)
                == (found.result is ComparisonResult.WORSE)
                == (found.e_worse >= 2 / ALPHA)
            )


def test_the_last_look_is_the_sum_of_all_and_the_order_does_not_matter_to_it() -> None:
    run = differences(np.random.default_rng(26), 500, 0.1, 0.2)
    assert capitals(run)[-1] == pytest.approx(capital(run)) == pytest.approx(capital(run[::-1]))


@pytest.mark.parametrize("worst", [-1.0, 1.0])
def test_the_largest_differences_there_can_be_bankrupt_no_bet(worst: float) -> None:
    found = compare(np.full(1_000, worst))
    assert found.result is (ComparisonResult.BETTER if worst < 0 else ComparisonResult.WORSE)
    assert math.isfinite(found.e_better)
    assert found.low <= worst <= found.high


def test_without_outcomes_nothing_is_said() -> None:
    found = compare(np.array([]))
    assert (found.result, found.n, found.difference) == (ComparisonResult.NOT_YET, 0, 0.0)
    assert (found.low, found.high) == (-1.0, 1.0)


def judged(lead: str, at: int, version: str = "1.0.0", **fields: object) -> LabeledPrediction:
    """What a version said of a lead on day `at`, decided on the day after."""
    converted, decided = (
        bool(fields.pop("converted", False)),
        int(str(fields.pop("decided", at + 1))),
    )
    variant = "champion" if version == "1.0.0" else "challenger"
    made = PublishedPrediction(lead, f"{lead} {at}", at * DAY_MS, version, variant, False, 0.5, 0.5)
    return LabeledPrediction(replace(made, **fields), converted, decided * DAY_MS)  # type: ignore[arg-type]


def shadow(lead: str, at: int, **fields: object) -> LabeledPrediction:
    return judged(lead, at, "1.1.0", shadow=True, **fields)


def test_a_lead_that_changes_often_must_not_count_as_many_outcomes() -> None:
    both = [
        one for at in range(1, 9) for one in (judged("a", at, probability=at / 10), shadow("a", at))
    ]
    pairs = shadow_pairs(
        [*both, judged("b", 9, converted=True), shadow("b", 9, converted=True)], "1.0.0", "1.1.0"
    )
    assert pairs.champion.tolist() == [0.1, 0.5]
    assert pairs.champion_converted.tolist() == pairs.challenger_converted.tolist() == [False, True]
    assert pairs.differences.tolist() == pytest.approx([0.25 - 0.01, 0.0])


def test_in_the_shadow_only_what_both_said_of_the_same_change_is_compared() -> None:
    strangers = [
        judged("a", 1),
        shadow("a", 2),
        judged("b", 1),
        shadow("b", 1, model_version="1.2.0"),
        judged("c", 1, model_version="0.9.0"),
        shadow("c", 1),
        judged("d", 1, "1.1.0"),
        judged("d", 1),
    ]
    assert shadow_pairs(strangers, "1.0.0", "1.1.0").champion.size == 0
    assert shadow_pairs([*strangers, shadow("d", 1)], "1.0.0", "1.1.0").champion.size == 1


def test_a_split_compares_each_lead_once_and_leaves_out_what_was_before_it_and_in_the_shadow() -> (
    None
):
    history = [
        judged("old", 1, probability=0.1),
        shadow("old", 1),
        judged("a", 2, "1.1.0", probability=0.2),
        judged("b", 3, probability=0.3),
        judged("b", 4, probability=0.9),
        judged("old", 5, probability=0.4),
        judged("a", 6, "1.1.0", probability=0.9),
        judged("f", 6, probability=0.45),
        judged("c", 7, "1.1.0", probability=0.6),
        judged("d", 8, model_version="1.2.0"),
        judged("e", 9, "1.1.0", variant="champion"),
    ]
    pairs = split_pairs(history, "1.0.0", "1.1.0")
    assert (pairs.champion.tolist(), pairs.challenger.tolist()) == ([0.3, 0.45], [0.2, 0.6])


def test_a_lead_that_one_of_two_models_learned_from_must_not_decide_between_them() -> None:
    known = [one for at in range(1, 5) for one in (judged("a", at), shadow("a", at))]
    fresh, trained_on = without_learned(known, [DAY_MS, None, 3 * DAY_MS])
    assert [one.prediction.occurred_at for one in fresh] == [4 * DAY_MS] * 2
    assert trained_on == 6
    assert without_learned(known, [None, None]) == (known, 0)


def test_pairing_the_first_with_the_first_would_take_the_weeks_for_the_models() -> None:
    """Equal models, an arm of one in ten, and a base rate that falls: the champion's first 500 are
    of earlier days.
    """
    rng = np.random.default_rng(27)
    found, naive = [], []
    for _ in range(40):
        rate = np.linspace(0.6, 0.02, 5_000)
        arm = rng.random(5_000) < 0.1
        history = [
            judged(
                str(i),
                i,
                "1.1.0" if arm[i] else "1.0.0",
                probability=0.05,
                converted=rng.random() < rate[i],
            )
            for i in range(5_000)
        ]
        found.append(compare(split_pairs(history, "1.0.0", "1.1.0").differences).result)
        loss = np.array([(0.05 - one.converted) ** 2 for one in history])
        challenger = loss[arm]
        naive.append(compare(challenger - loss[~arm][: len(challenger)]).result)
    assert found.count(ComparisonResult.NOT_YET) >= 38
    assert naive.count(ComparisonResult.BETTER) >= 35


def test_leads_that_converted_early_must_wait_for_those_that_may_still() -> None:
    early = [
        judged("a", 10, converted=True, decided=11),
        judged("b", 2, decided=40),
        judged("c", 1, converted=True),
    ]

    def known(horizon_days: float | None, until: int) -> list[str]:
        others = judged("other", 200, decided=until)
        return [
            one.prediction.lead_id
            for one in fully_labeled([*early, others], horizon_days)
            if one.prediction.lead_id != "other"
        ]

    assert known(60, 61) == []
    assert known(60, 63) == ["c", "b"]
    assert known(60, 70) == ["c", "b"]
    assert known(60, 71) == ["c", "b", "a"]
    assert known(None, 0) == ["c", "a", "b"]


def test_counting_conversions_first_would_make_the_bolder_of_two_models_the_better_one() -> None:
    """The challenger says more of every lead and is the worse one; the first sixty days know
    conversions only.
    """
    rng = np.random.default_rng(28)
    history = []
    for i in range(2_000):
        converted, at = rng.random() < 0.2, i // 50
        decided = at + (5 if converted else 60)
        history.append(judged(str(i), at, probability=0.2, converted=converted, decided=decided))
        history.append(shadow(str(i), at, probability=0.4, converted=converted, decided=decided))
    known = [one for one in history if one.decided_at <= 50 * DAY_MS]
    assert (
        compare(shadow_pairs(known, "1.0.0", "1.1.0").differences).result is ComparisonResult.BETTER
    )
    for today, conclusion in (
        (50, ComparisonResult.NOT_YET),
        (70, ComparisonResult.WORSE),
        (100, ComparisonResult.WORSE),
    ):
        known = [one for one in history if one.decided_at <= today * DAY_MS]
        pairs = shadow_pairs(fully_labeled(known, 60), "1.0.0", "1.1.0")
        assert compare(pairs.differences).result is conclusion


def test_quality_is_told_even_where_all_outcomes_are_alike() -> None:
    alike = quality(np.array([0.2, 0.4]), np.array([False, False]))
    assert alike["roc_auc"] is None
    assert alike["brier"] == pytest.approx(0.1)
    both = quality(np.array([0.2, 0.4]), np.array([False, True]))
    assert both["roc_auc"] == 1.0
    assert both["log_loss"] == pytest.approx(-(math.log(0.8) + math.log(0.4)) / 2)
