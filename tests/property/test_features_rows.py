"""What must hold for any batch: a row is its own, nothing is NaN, and the fitted object is the same
after pickling.
"""

import math
import pickle
from random import Random
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features import MISSING, UNKNOWN, CalendarSettings, FittedFeatures, columns_of, specify
from features.spec import CATEGORY, LAST_MOMENT, NUMBER
from tests.examples import examples

SPECIFICATION = specify(
    CalendarSettings("Europe/Warsaw"), numbers=("visits", "a.b"), categories=("country",)
)

moments = st.one_of(
    st.integers(1_500_000_000_000, 1_900_000_000_000),
    st.integers(0, LAST_MOMENT),
    st.none(),
    st.integers(),
    st.floats(),
    st.sampled_from([-1, 0, LAST_MOMENT, LAST_MOMENT + 1, 10**400, "2025-01-01", math.nan]),
)
numbers = st.one_of(
    st.none(),
    st.floats(0, 100),
    st.integers(0, 1000),
    st.floats(),
    st.integers(),
    st.sampled_from(
        [math.nan, math.inf, -0.0, 5e-324, 1e15, 1e308, 10**400, "7", "", True, b"\xff"]
    ),
)
texts = st.one_of(
    st.none(),
    st.sampled_from(
        ["", " ", "new", "New", " open", "x" * 256, "x" * 257, "\0", "new\0", "\ud800", "ß", "SS"]
    ),
    st.text(alphabet=st.characters(), max_size=12),
    st.floats(),
    st.lists(st.integers(), max_size=1),
)
states = st.fixed_dictionaries(
    {"created_at": moments},
    optional={
        "lead_score": numbers,
        "engagement_score": numbers,
        "touchpoint_count": numbers,
        "lifecycle_state": texts,
        "status": texts,
        "source": texts,
        "programme_name": texts,
        "campus_name": texts,
        "numbers": st.one_of(
            st.none(), st.dictionaries(st.sampled_from(["visits", "a.b", "c"]), numbers)
        ),
        "categories": st.one_of(
            st.none(), st.dictionaries(st.sampled_from(["country", "city"]), texts)
        ),
    },
)
leads = st.tuples(
    states,
    st.one_of(st.integers(1_500_000_000_000, 1_900_000_000_000), st.integers(0, LAST_MOMENT)),
)
Leads = list[tuple[dict[str, Any], int]]


def _training() -> FittedFeatures:
    random = np.random.default_rng(5)
    rows = [
        {
            "created_at": int(random.integers(1_500_000_000_000, 1_800_000_000_000)),
            "lead_score": float(random.normal(50, 10)),
            "engagement_score": float(random.uniform(0, 100)),
            "touchpoint_count": int(random.poisson(4)),
            "lifecycle_state": str(random.choice(["new", "open", "ss"])),
            "numbers": {"visits": float(random.integers(0, 9))},
            "categories": {"country": str(random.choice(["PL", "DE"]))},
        }
        for _ in range(3000)
    ]
    return FittedFeatures.fit(
        columns_of(rows), np.full(len(rows), 1_800_000_000_000), SPECIFICATION
    )


FITTED = _training()
patient = settings(deadline=None)  # a busy machine is not a failure


def outcome(batch: Leads, fitted: FittedFeatures = FITTED) -> list[tuple[object, ...]]:
    """All that a row gets, as bytes: two rows are equal only if they are equal to the bit."""
    matrix = fitted.transform(
        columns_of([state for state, _ in batch]), np.array([t for _, t in batch], dtype=np.int64)
    )
    return [
        (
            matrix.values[i].tobytes(),
            matrix.coverage[i].tobytes(),
            matrix.unusual[i].tobytes(),
            matrix.imputed[i],
            matrix.failed.get(i),
        )
        for i in range(len(batch))
    ]


@patient
@given(st.lists(leads, min_size=1, max_size=12), st.data())
def test_a_leads_row_has_the_same_bits_in_any_batch_and_any_order(
    batch: Leads, data: st.DataObject
) -> None:
    """A batch of other rows takes other paths: vector or scalar loops, a fast conversion or a
    careful one.
    """
    together = outcome(batch)
    order = data.draw(st.permutations(range(len(batch))))
    assert outcome([batch[i] for i in order]) == [together[i] for i in order]
    assert [outcome([lead])[0] for lead in batch] == together
    assert outcome(batch * 3) == together * 3


@patient
@given(st.lists(leads, max_size=12))
def test_no_nan_and_no_infinity_ever_comes_out(batch: Leads) -> None:
    as_of = np.array([t for _, t in batch], dtype=np.int64)
    matrix = FITTED.transform(columns_of([state for state, _ in batch]), as_of)
    assert matrix.values.shape == (len(batch), len(SPECIFICATION.outputs))
    assert matrix.values.dtype == np.float64
    assert matrix.values.flags.c_contiguous
    for array in (matrix.values, matrix.coverage, matrix.unusual):
        assert np.isfinite(array).all()
    for share in (matrix.coverage, matrix.unusual):
        assert ((share >= 0) & (share <= 1)).all()


@patient
@given(st.lists(leads, min_size=1, max_size=12))
def test_imputed_flags_codes_and_coverage_tell_the_same_story(batch: Leads) -> None:
    as_of = np.array([t for _, t in batch], dtype=np.int64)
    matrix = FITTED.transform(columns_of([state for state, _ in batch]), as_of)
    output = {"campus_name": "campus_preference"}
    for i in range(len(batch)):
        row = dict(zip(matrix.names, matrix.values[i].tolist(), strict=True))
        if i in matrix.failed:
            assert not any(row.values())
            assert (matrix.coverage[i], matrix.unusual[i], matrix.imputed[i]) == (0, 0, ())
            continue
        names = [spec.name for spec in SPECIFICATION.inputs_of_kind(NUMBER)]
        assert matrix.imputed[i] == tuple(name for name in names if row[f"{name}_missing"])
        assert all(row[name] == FITTED.distributions[name].median for name in matrix.imputed[i])
        codes = [
            row[output.get(spec.name, spec.name)] for spec in SPECIFICATION.inputs_of_kind(CATEGORY)
        ]
        absent = len(matrix.imputed[i]) + codes.count(MISSING)
        assert matrix.coverage[i] == (len(SPECIFICATION.inputs) - absent) / len(
            SPECIFICATION.inputs
        )
        assert matrix.unusual[i] * len(SPECIFICATION.inputs) >= codes.count(UNKNOWN)


@patient
@given(
    st.lists(leads, min_size=1, max_size=8),
    st.integers(0, 8),
    st.sampled_from([None, -1, math.nan, 10**400]),
)
def test_a_failed_row_does_not_touch_its_neighbours(
    batch: Leads, at: int, created_at: object
) -> None:
    at = min(at, len(batch))
    with_failure = outcome([*batch[:at], ({"created_at": created_at}, 0), *batch[at:]])
    assert with_failure[at][-1] is not None
    assert with_failure[:at] + with_failure[at + 1 :] == outcome(batch)


@patient
@given(st.lists(leads, min_size=1, max_size=8))
def test_the_fitted_features_give_the_same_bits_after_pickling(batch: Leads) -> None:
    assert outcome(batch, pickle.loads(pickle.dumps(FITTED))) == outcome(batch)


@settings(patient, max_examples=examples(30))
@given(st.lists(leads, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_training_rows_does_not_change_what_is_learnt(
    batch: Leads, random: Random
) -> None:
    sound: Leads = [*batch, ({"created_at": 0}, 0)]
    shuffled = random.sample(sound, len(sound))
    probe: Leads = [*batch, ({"created_at": 5, "lead_score": 3, "status": "new"}, 9)]
    one, other = (
        FittedFeatures.fit(
            columns_of([s for s, _ in rows]), np.array([t for _, t in rows]), SPECIFICATION
        )
        for rows in (sound, shuffled)
    )
    assert outcome(probe, one) == outcome(probe, other)


@patient
@given(st.integers(1, 200), st.integers(0, 40))
def test_the_bits_do_not_depend_on_where_in_a_long_batch_a_row_stands(n: int, start: int) -> None:
    random = np.random.default_rng(n)
    columns = {
        "created_at": [1_700_000_000_000] * (n + start),
        "lead_score": random.lognormal(3, 2, n + start).tolist(),
        "engagement_score": random.uniform(0, 100, n + start).tolist(),
        "touchpoint_count": random.poisson(5, n + start).tolist(),
    }
    as_of = np.full(n + start, 1_750_000_000_000)
    full = FITTED.transform(columns, as_of).values[start:]
    part = FITTED.transform(
        {name: values[start:] for name, values in columns.items()}, as_of[start:]
    ).values
    assert full.tobytes() == part.tobytes()
