import doctest
import itertools
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from sklearn.metrics import log_loss

from leadstream.errors import UserError
from models.evaluate import legacy_sigmoid
from models.monitor import statistics
from models.serve import calibrators
from models.serve.calibrators import CALIBRATORS
from models.train import calibrate, policies
from models.train.calibrate import AUTOMATIC, Floats, Labels
from models.train.candidates import RECIPES
from models.train.policies import Policy, grades, parse_cuts, parse_policy


def balanced_scores(
    n: int = 6000, rate: float = 0.1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores that answer for a 50 % base rate, outcomes at `rate`, and the true probabilities."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(np.log(rate / (1 - rate)), 1.2, n)
    truth = 1 / (1 + np.exp(-log_odds))
    prior = truth.mean()
    raw = 1 / (1 + np.exp(-(log_odds - np.log(prior / (1 - prior)))))
    return raw, rng.random(n) < truth, truth


@pytest.mark.parametrize(
    "name", [name for name in CALIBRATORS if name not in ("legacy_sigmoid", "none")]
)
def test_a_balanced_score_becomes_the_true_rate_by_any_learnt_calibrator(name: str) -> None:
    raw, labels, _ = balanced_scores()
    later, _, truth = balanced_scores(seed=1)
    probability = calibrators.fit(name, raw, labels, 0.5).interval(later)[0]
    assert np.abs(probability - truth).mean() < 0.025
    assert np.abs(later - truth).mean() > 0.2


@pytest.mark.parametrize("name", CALIBRATORS)
def test_the_probability_never_lies_outside_its_interval_and_rises_with_the_score(
    name: str,
) -> None:
    raw, labels, _ = balanced_scores(500)
    probability, low, high = calibrators.fit(name, raw, labels, 0.5).interval(
        np.linspace(0, 1, 1001)
    )
    assert (low <= probability).all()
    assert (probability <= high).all()
    assert (np.diff(probability) >= -1e-12).all()


@pytest.mark.parametrize("name", CALIBRATORS)
def test_a_lead_gets_the_same_bits_alone_and_in_a_batch(name: str) -> None:
    raw, labels, _ = balanced_scores(400)
    calibrator = calibrators.fit(name, raw, labels, 0.5)
    full = np.stack(calibrator.interval(raw[:100]))
    alone = [np.stack(calibrator.interval(raw[i : i + 1])) for i in range(100)]
    assert full.tobytes() == np.concatenate(alone, axis=1).tobytes()


@pytest.mark.parametrize("name", CALIBRATORS)
def test_a_lead_that_lacks_more_has_an_interval_that_is_never_narrower_and_on_average_wider(
    name: str,
) -> None:
    raw, labels, _ = balanced_scores(4000)
    missing = np.random.default_rng(2).choice([1, 2, 3, 5], 4000, p=[0.7, 0.15, 0.1, 0.05])
    calibrator = calibrators.fit(name, raw, labels, 0.5, missing)
    assert calibrator.levels == (2, 3, 5)
    asked = np.linspace(0.05, 0.95, 500)
    widths = []
    for lacks in (0, 1, 2, 3, 4, 5, 9):
        probability, low, high = calibrator.interval(asked, np.full(500, lacks))
        assert probability.tolist() == calibrator.interval(asked)[0].tolist()
        assert (low <= probability).all()
        assert (probability <= high).all()
        widths.append(high - low)
    for less, more in itertools.pairwise(widths):
        assert (more >= less).all()
    complete, _, two, three, _, five, nine = (width.mean() for width in widths)
    assert complete < two < three < five == nine


def test_a_level_with_too_few_leads_or_one_outcome_has_no_interval_of_its_own() -> None:
    raw, labels, _ = balanced_scores(1000)
    few, one_sided = np.zeros(1000, dtype=np.intp), np.zeros(1000, dtype=np.intp)
    few[:99] = 1
    one_sided[np.flatnonzero(~labels)[:200]] = 1
    for missing in (few, one_sided):
        assert calibrators.fit("isotonic", raw, labels, 0.5, missing).levels == ()


@pytest.mark.parametrize("name", CALIBRATORS)
def test_a_shift_moves_the_odds_of_probability_and_interval_alike(name: str) -> None:
    raw, labels, _ = balanced_scores(500)
    fitted = calibrators.fit(name, raw, labels, 0.5)
    before = np.stack(fitted.interval(raw))
    after = np.stack(replace(fitted, shift=float(np.log(2))).interval(raw))
    odds = np.clip(before, 1e-6, 1 - 1e-6)
    assert np.allclose(after / (1 - after), 2 * odds / (1 - odds))
    assert (after[1] <= after[0]).all()
    assert (after[0] <= after[2]).all()


def test_the_audited_formula_stays_available_by_name() -> None:
    raw, labels, _ = balanced_scores(400)
    assert (
        calibrators.fit("legacy_sigmoid", raw, labels, 0.5).interval(raw)[0].tolist()
        == legacy_sigmoid(raw).tolist()
    )


def test_the_calibrator_is_the_one_that_loses_least_on_later_leads_and_never_the_audited_one() -> (
    None
):
    raw, labels, _ = balanced_scores(3000)
    cut = 2000
    name, stated = calibrate.choose((raw[:cut], labels[:cut]), (raw[cut:], labels[cut:]), 0.5)
    losses = {
        name: log_loss(
            labels[cut:], calibrators.fit(name, raw[:cut], labels[:cut], 0.5).interval(raw[cut:])[0]
        )
        for name in AUTOMATIC
    }
    assert name == min(losses, key=lambda name: losses[name])
    assert set(stated) == set(AUTOMATIC)
    assert "legacy_sigmoid" not in stated


def test_scores_that_rank_the_wrong_way_round_are_refused_by_every_calibrator() -> None:
    raw, labels, _ = balanced_scores(3000)
    for name in CALIBRATORS:
        with pytest.raises(UserError, match="slope is negative"):
            calibrators.fit(name, 1 - raw, labels, 0.5)
    with pytest.raises(
        UserError, match=r"venn_abers: its slope is negative .*; isotonic: its slope"
    ):
        calibrate.choose((1 - raw, labels), (raw, labels), 0.5)


def test_a_calibrator_that_ties_most_leads_is_refused_for_the_ranking_it_costs() -> None:
    raw, labels, _ = balanced_scores(3000, rate=0.4)
    with pytest.raises(UserError, match=r"lowers ROC-AUC on later leads by 0\.\d"):
        calibrate.check_ranking(raw, np.round(raw), labels)
    calibrate.check_ranking(raw, np.round(raw, 2), labels)


def test_scores_without_overlap_have_no_sigmoid_but_other_calibrators() -> None:
    raw, labels = np.linspace(0, 1, 90), np.tile([False, True, True], 30)
    labels = np.sort(labels)
    with pytest.raises(UserError, match="do not overlap"):
        calibrators.fit("sigmoid", raw, labels, 0.5)
    probability = calibrators.fit("isotonic", raw, labels, 0.5).interval(raw)[0]
    assert (probability.min(), probability.max()) == (0.5 / 31, 60.5 / 61)


def test_an_end_step_of_few_leads_does_not_pass_its_neighbor() -> None:
    raw = np.array([0.1, *[0.2] * 10, 0.3])
    labels = np.array([False, *[True] + [False] * 9, True])
    probability = calibrators.fit("isotonic", raw, labels, 0.5).interval(raw)[0]
    assert probability.tolist() == [0.1] * 11 + [0.75]


def test_an_artifact_without_limits_scores_as_before() -> None:
    raw, labels, _ = balanced_scores(400)
    fitted = calibrators.fit("sigmoid", raw, labels, 0.5)
    old = replace(fitted, rates=np.empty(0))
    assert old.interval(np.array([1.0]))[0][0] > fitted.interval(np.array([1.0]))[0][0]
    usual = raw[(raw > 0.2) & (raw < 0.8)]
    assert old.interval(usual)[0].tolist() == fitted.interval(usual)[0].tolist()


def test_a_calibrator_that_gains_by_chance_only_is_not_chosen() -> None:
    chosen = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        raw = rng.beta(2, 5, 1200)
        labels = rng.random(1200) < raw
        name, stated = calibrate.choose((raw[:800], labels[:800]), (raw[800:], labels[800:]), 0.3)
        chosen.append((name, "no calibrator gains 2 standard errors" in stated["none"]))
    assert {name for name, _ in chosen} == {"none"}
    assert any(by_chance for _, by_chance in chosen)


def test_a_capacity_is_not_exceeded_unless_nobody_would_be_called() -> None:
    probability = np.array([0.1, 0.2, 0.2, 0.3, 0.3, 0.3, 0.4, 0.4, 0.5, 0.9])
    labels = np.zeros(10, dtype=bool)
    for share, called in ((0.1, 1), (0.2, 2), (0.3, 2), (0.4, 4), (0.05, 1), (0.99, 9)):
        threshold = Policy("capacity", share).threshold(probability, labels)
        assert (probability >= threshold).sum() == called


def test_the_threshold_of_a_cost_is_where_a_call_begins_to_pay() -> None:
    assert Policy("cost", 5).threshold(np.array([0.5]), np.array([True])) == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    "text",
    ["", "f2", "f1:1", "capacity", "capacity:0", "capacity:1", "cost:-1", "cost:x", "cost:inf"],
)
def test_what_is_no_policy_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(UserError, match=r"use f1, capacity:0.1 .* or cost:5"):
        parse_policy(text)


def test_policies_are_read_as_they_are_written() -> None:
    assert [parse_policy(text) for text in ("f1", "capacity:0.1", "cost:5")] == [
        Policy(),
        Policy("capacity", 0.1),
        Policy("cost", 5.0),
    ]


def test_grades_go_by_stated_cuts_or_by_shares_of_leads() -> None:
    probability = np.linspace(0, 1, 1001)
    assert grades(probability, parse_cuts("0.5,0.3,0.1"))[0] == {"A": 0.5, "B": 0.3, "C": 0.1}
    cuts, policy = grades(probability, None)
    assert cuts == pytest.approx({"A": 0.9, "B": 0.7, "C": 0.4})
    assert "top 10 %" in policy


@pytest.mark.parametrize(
    "text", ["", "0.5", "0.5,0.3", "0.1,0.3,0.5", "1,0.5,0.1", "0.5,0.3,0", "a,b,c", "0.5,nan,0.1"]
)
def test_cuts_that_do_not_fall_between_one_and_zero_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="are no grade cuts"):
        parse_cuts(text)


def test_a_calibrator_recipe_or_name_that_the_command_line_forgot_could_not_be_chosen() -> None:
    from leadstream.cli import train

    assert sorted(train._CALIBRATORS) == sorted(CALIBRATORS)
    assert sorted(train._RECIPES) == sorted(RECIPES)


@pytest.mark.parametrize("module", [calibrators, policies, statistics])
def test_an_example_in_a_docstring_that_does_not_hold_would_mislead(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


def test_an_unknown_calibrator_is_refused_with_those_there_are() -> None:
    raw, labels, _ = balanced_scores(400)
    with pytest.raises(UserError, match="'new' is no calibrator: use one of venn_abers"):
        calibrators.fit("new", raw, labels, 0.5)


def drawn(rng: np.random.Generator, n: int, level: float) -> tuple[Floats, Labels]:
    """Raw scores of n leads, and outcomes whose log-odds are those scores' plus a level."""
    raw = rng.uniform(0.1, 0.5, n)
    odds = calibrators.log_odds(raw) + level
    return raw, rng.random(n) < 1 / (1 + np.exp(-odds))


@pytest.mark.parametrize(
    ("levels", "steady", "seasonal"),
    [
        ((0.0, 0.8, 0.8), True, True),  # it moved and stayed
        ((0.0, 0.1, 0.9), True, False),  # nothing shows yet that a moved rate comes back
        ((0.0, 0.8, 0.0), False, False),  # it came back
    ],
)
def test_a_rate_is_followed_unless_it_comes_back_and_seasons_must_prove_it(
    levels: tuple[float, ...], steady: bool, seasonal: bool
) -> None:
    rng = np.random.default_rng(3)
    *folds, later = (drawn(rng, 3_000, level) for level in levels)
    leads = np.arange(3_000)
    for expected, is_seasonal in ((steady, False), (seasonal, True)):
        found = calibrate.follows_level("none", folds, later, 0.3, leads, seasonal=is_seasonal)
        assert found is expected


def test_a_rate_that_moved_little_or_on_few_leads_moves_no_probability() -> None:
    rng = np.random.default_rng(4)
    calibrator = calibrators.fit("none", *drawn(rng, 3_000, 0.0), 0.3)

    def added(n: int, level: float, rows_of_a_lead: int = 1) -> float:
        raw, labels = drawn(rng, n, level)
        return calibrate.level_to_follow(calibrator, raw, labels, np.arange(n) // rows_of_a_lead)

    assert added(3_000, 0.8) == pytest.approx(0.8, abs=0.15)
    assert added(3_000, 0.15) == 0.0
    assert added(3_000, 0.45) != 0.0
    assert added(3_000, 0.45, rows_of_a_lead=100) == 0.0, "30 leads say little"
