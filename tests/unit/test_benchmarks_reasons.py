"""The figures of `make bench-reasons` say what their names say."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import reasons

OURS = np.array([[0.5, -0.4, 0.3, 0.0], [0.1, 0.2, 0.3, 0.4]])


def test_the_same_contributions_agree_in_everything() -> None:
    found = reasons.agreement(OURS, OURS * 2)
    assert found == pytest.approx(
        {"same_first": 1, "overlap": 1, "same_three": 1, "correlation": 1}
    )


def test_strength_and_not_sign_decides_which_reasons_are_the_same() -> None:
    found = reasons.agreement(OURS, np.array([[-0.5, 0.4, 0.3, 0.0], [0.4, 0.3, 0.2, 0.1]]))
    assert found["same_first"] == 0.5
    assert found["same_three"] == 0.5
    assert found["overlap"] == pytest.approx((3 + 2) / 6)
    assert found["correlation"] < 0


def test_without_the_data_it_says_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reasons, "find_spec", lambda _: True)
    monkeypatch.setattr(sys, "argv", ["reasons", "--data", str(tmp_path / "none.csv")])
    assert reasons.main() == 1
    assert "give --data" in capsys.readouterr().out
