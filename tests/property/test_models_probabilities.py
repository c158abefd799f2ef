from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from features import columns_of
from leadstream.errors import UserError
from models.serve import calibrators
from models.serve.calibrators import CALIBRATORS
from models.serve.explain import Factors, strongest
from models.serve.scorer import Model
from models.serve.venn_abers import VennAbers
from tests.examples import examples
from tests.trained_models import START_MS, trained

MODEL = Model(
    trained().artifact, {**trained().manifest, "version": "1.0.0", "artifact": {"sha256": "00"}}
)

points = st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=40).filter(
    lambda drawn: len({label for _, label in drawn}) == 2
)
numbers = st.one_of(st.none(), st.floats(), st.floats(0, 200), st.integers(0, 10**15))
texts = st.one_of(
    st.none(), st.text(max_size=300), st.sampled_from(["website", "Lead", "new", "MBA"])
)
states = st.fixed_dictionaries(
    {
        "created_at": st.one_of(
            st.none(), st.integers(-(10**12), 3 * 10**14), st.integers(START_MS, START_MS + 10**10)
        ),
        "lead_score": numbers,
        "engagement_score": numbers,
        "touchpoint_count": numbers,
        "lifecycle_state": texts,
        "status": texts,
        "source": texts,
        "programme_name": texts,
        "campus_name": texts,
    }
)
batches = st.lists(
    st.tuples(states, st.integers(START_MS, START_MS + 10**10)), min_size=1, max_size=12
)


@given(points, st.integers(-1, 26))
def test_venn_abers_is_two_isotonic_fits_whatever_the_ties(
    drawn: list[tuple[int, bool]], asked: int
) -> None:
    scores = np.array([score for score, _ in drawn], dtype=np.float64)
    labels = np.array([label for _, label in drawn])
    score = asked / 2
    _, low, high = VennAbers.fit(scores, labels).interval(np.array([score]))
    for bound, label in ((low, 0.0), (high, 1.0)):
        fitted = IsotonicRegression().fit(np.append(scores, score), np.append(labels, label))
        assert abs(fitted.predict([score])[0] - bound[0]) < 1e-12


@given(points)
def test_a_higher_score_is_never_a_lower_probability(drawn: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in drawn], dtype=np.float64)
    asked = np.arange(-1, 14, 0.5)
    probability, low, high = VennAbers.fit(
        scores, np.array([label for _, label in drawn])
    ).interval(asked)
    for values in (probability, low, high):
        assert (np.diff(values) >= 0).all()
    assert (low <= probability).all()
    assert (probability <= high).all()
    assert ((low >= 0) & (high <= 1) & (low < high)).all()


raw_scores = st.one_of(st.sampled_from([0.0, 1e-9, 0.25, 0.5, 0.75, 1.0]), st.floats(0, 1))
samples = st.lists(st.tuples(raw_scores, st.booleans()), min_size=2, max_size=30).filter(
    lambda drawn: len({label for _, label in drawn}) == 2
)


@settings(max_examples=examples(200))
@given(samples, st.sampled_from(list(CALIBRATORS)), st.sampled_from([0.0, 25.0, -25.0]))
def test_no_calibrator_says_that_something_always_or_never_happens(
    drawn: list[tuple[float, bool]], name: str, shift: float
) -> None:
    raw = np.array([score for score, _ in drawn])
    labels = np.array([label for _, label in drawn])
    try:
        calibrator = replace(calibrators.fit(name, raw, labels, float(labels.mean())), shift=shift)
    except UserError:
        return
    asked = np.unique(np.concatenate([raw, np.linspace(0, 1, 101)]))
    probability, low, high = calibrator.interval(asked)
    assert ((probability > 0) & (probability < 1)).all()
    assert ((low <= probability) & (probability <= high)).all()
    assert (np.diff(probability) >= -1e-12).all()


@settings(deadline=None, max_examples=examples(60))
@given(batches)
def test_whatever_comes_in_each_lead_scores_by_itself_and_alike(
    batch: list[tuple[dict[str, object], int]],
) -> None:
    as_of = np.array([moment for _, moment in batch])
    together = MODEL.score(columns_of([state for state, _ in batch]), as_of, 30)
    for i, (state, moment) in enumerate(batch):
        alone = MODEL.score(columns_of([state]), np.array([moment]), 30)
        assert (i in together.failed) == (0 in alone.failed)
        if 0 in alone.failed:
            assert together.failed[i].detail == alone.failed[0].detail
            continue
        for name in ("raw", "probability", "low", "high", "confidence", "coverage"):
            assert getattr(alone, name).tobytes() == getattr(together, name)[i : i + 1].tobytes()
        assert (alone.reasons[0], alone.imputed[0]) == (together.reasons[i], together.imputed[i])
        assert (
            abs(alone.base_probability + sum(alone.strongest.points[0]) - alone.probability[0])
            < 1e-12
        )
        assert alone.percentiles.tobytes() == together.percentiles[i : i + 1].tobytes()
        assert 0 <= alone.low[0] <= alone.probability[0] <= alone.high[0] <= 1
        assert 0 <= alone.confidence[0] <= 1


SAME = Factors(np.ones(1), np.ones(1))


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 0.1, -0.1, 0.2, -0.3]), min_size=4, max_size=4),
        min_size=1,
        max_size=5,
    )
)
def test_equal_strengths_keep_the_order_of_the_features(rows: list[list[float]]) -> None:
    for row, reasons in zip(
        rows, strongest(np.array(rows), SAME, 4).named(("a", "b", "c", "d")), strict=True
    ):
        expected = sorted(
            ((name, x) for name, x in zip("abcd", row, strict=True) if x),
            key=lambda item: -abs(item[1]),
        )
        assert list(reasons) == expected
