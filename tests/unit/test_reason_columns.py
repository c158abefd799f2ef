"""The value of a reason must be what the lead has, whatever it has."""

from collections.abc import Callable

import numpy as np
import pytest

from consumer.scoring.reason_columns import (
    moment_texts,
    number_texts,
    plain_moment_texts,
    plain_number_texts,
)
from features.columns import Floats
from schemas.columns import TextColumn


@pytest.mark.parametrize("number_texts", [number_texts, plain_number_texts])
def test_numbers_are_written_as_python_writes_them_to_six_decimals(
    number_texts: Callable[[Floats], TextColumn],
) -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate(
        [
            [0.0, -0.0, 1.0, -1.0, 0.5, 82.25, 1e15, -1e15, 0.9999999, -0.0000001, 0.000001],
            rng.uniform(-100, 100, 2000).round(3),
            rng.uniform(-1, 1, 500),
            rng.integers(-(10**9), 10**9, 500),
            10.0 ** rng.integers(-7, 16, 200),
        ]
    )
    found = [text.decode() for text in number_texts(values).to_list()]
    for text, value in zip(found, values.tolist(), strict=True):
        expected = f"{value:.6f}".rstrip("0").rstrip(".")
        assert text == {"-0": "0"}.get(expected, expected) or abs(float(text) - value) <= 5.1e-7
        assert not text.startswith("-0.0") or float(text)
        assert "." not in text or text[-1] != "0"


def test_a_number_that_is_not_there_is_null() -> None:
    column = number_texts(np.array([np.nan, 3.5]))
    assert column.lengths.tolist() == [-1, 3]
    assert number_texts(np.array([])).to_list() == []


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (0, b"1970-01-01T00:00:00Z"),
        (1_764_490_500_999, b"2025-11-30T08:15:00Z"),
        (253_402_300_799_999, b"9999-12-31T23:59:59Z"),
    ],
)
def test_moments_are_iso_8601(moment: int, text: bytes) -> None:
    for texts in (moment_texts, plain_moment_texts):
        assert texts(np.array([moment], np.int64)).to_list() == [text]


def test_the_compiled_texts_are_those_of_numpy() -> None:
    rng = np.random.default_rng(3)
    moments = np.concatenate([rng.integers(0, 253_402_300_800_000, 20_000), [951_782_400_000]])
    assert moment_texts(moments).to_list() == plain_moment_texts(moments).to_list()
    numbers = np.round(rng.normal(size=20_000), rng.integers(0, 9)) * 10.0 ** rng.integers(
        -6, 15, 20_000
    )
    numbers[::7] = np.nan
    found, expected = number_texts(numbers), plain_number_texts(numbers)
    assert found.to_list() == expected.to_list()
    assert found.lengths.tolist() == expected.lengths.tolist()
