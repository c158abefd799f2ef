"""A sentence must say what the reason says: its value, its rank, and its sign."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leadstream.errors import SettingsError
from leadstream.explanation import FOLDER, Language, explanation, language, reason_sentence
from tests.examples import examples

CODES = sorted(path.stem for path in FOLDER.glob("*.toml"))


def reasons(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(4)
    kinds, shares = rng.integers(4, size=count).tolist(), rng.random(count).round(4).tolist()
    points = rng.normal(scale=0.1, size=count).tolist()
    values = rng.choice([rng.uniform(-1e4, 1e4, count), rng.integers(0, 100, count)]).tolist()
    named = ("lead_score", "source", "created_at", "numbers.budget")
    found = []
    for kind, share, contribution, value in zip(kinds, shares, points, values, strict=True):
        text = (f"{value:.6f}".rstrip("0").rstrip("."), "web", "2026-11-30T08:15:00Z", None)[kind]
        percentile = share if kind in (0, 2) else None
        given_rate = share if kind == 3 and share > 0.3 else None
        found.append(
            {
                "feature": named[kind],
                "contribution": contribution,
                "value": text,
                "percentile": percentile,
                "given_rate": given_rate,
            }
        )
    return found


def read(sentence: str, words: Language) -> dict[str, str]:
    """The parts of a sentence, by the first template that fits."""
    texts = words.templates
    for name in ("date", "number", "missing_rate", "missing", "category"):
        template = texts[name].replace("{points}", texts["points"].replace("{points}", "{sum}"))
        pattern = re.escape(template)
        names = ("lead_score", "source", "created_at", "numbers.budget")
        fields = "|".join(re.escape(words.field(name)) for name in names)
        pattern = pattern.replace(re.escape("{field}"), f"(?P<field>{fields})")
        for place in ("value", "rank", "rate", "sum"):
            pattern = pattern.replace(re.escape(f"{{{place}}}"), f"(?P<{place}>.+?)")
        if (match := re.fullmatch(pattern, sentence)) and not (
            name in ("date", "number") and rank(match["rank"], words) is None
        ):
            return {"kind": name, **match.groupdict()}
    raise AssertionError(sentence)


def rank(text: str, words: Language) -> tuple[float, float] | None:
    """The shares that a rank allows."""
    if text == words.templates["usual"]:
        return 0.4, 0.6
    for side in ("higher", "older", "lower", "newer"):
        pattern = re.escape(words.templates[side])
        for place in ("share", "of"):
            pattern = pattern.replace(re.escape(f"{{{place}}}"), rf"(?P<{place}>\d+)")
        if match := re.fullmatch(pattern, text):
            low = int(match["share"]) / int(match["of"])
            high = low + 1 / int(match["of"])
            return (low, high) if side in ("higher", "older") else (1 - high, 1 - low)
    return None


@pytest.mark.parametrize("code", CODES)
def test_25_000_sentences_of_each_language_say_value_rank_and_sign(code: str) -> None:
    words = language(code)
    sign = words.decimal_sign
    for reason in reasons(25_000):
        found = read(reason_sentence(reason, words), words)
        written = float(found["sum"].replace(sign, "."))
        assert (
            abs(written - reason["contribution"] * 100)
            <= (0.5 if abs(written) >= 10 else 0.05) + 1e-9
        )
        assert found["sum"][0] == ("-" if reason["contribution"] < 0 else "+")
        if reason["percentile"] is not None:
            low, high = rank(found["rank"], words) or (2, 2)
            assert low - 1e-9 <= reason["percentile"] <= high + 1e-9
        match found["kind"]:
            case "number":
                given = float(reason["value"])
                stated = float(found["value"].replace(sign, "."))
                assert abs(stated - given) <= (0.005 + 1e-9 if abs(given) >= 1 else 0)
            case "date" | "category":
                assert reason["value"].startswith(found["value"])
            case "missing_rate":
                rate = float(found["rate"].removesuffix(" %").replace(sign, "."))
                assert abs(rate / 100 - reason["given_rate"]) <= 0.005 + 1e-9
                assert reason["value"] is None
            case _:
                assert reason["value"] is reason["given_rate"] is None


def test_an_explanation_says_what_is_for_and_what_is_against() -> None:
    prediction = {
        "reasons": [
            {
                "feature": "engagement_score",
                "contribution": 0.11,
                "value": "82",
                "percentile": 0.93,
            },
            {"feature": "campus_name", "contribution": -0.02, "value": None, "percentile": None},
        ]
    }
    assert explanation(prediction, language("en")) == (
        "For: engagement 82, higher than 9 in 10 leads: +11 points. "
        "Against: no campus given: -2.0 points."
    )
    assert explanation(prediction, language("de")) == (
        "Dafür: Engagement 82, höher als bei 9 von 10 Leads: +11 Punkte. "
        "Dagegen: Campus fehlt: -2,0 Punkte."
    )
    prediction["reasons"][1]["given_rate"] = 0.0713
    assert explanation(prediction, language("en")).endswith(
        "Against: no campus given; leads that give one convert at 7.1 %: -2.0 points."
    )
    assert explanation({"reasons": []}, language("en")) == ""
    old = {"reasons": [{"feature": "score_log", "contribution": 0.1}]}
    assert "score log" in explanation(old, language("en"))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("{rank}", "{rang}", "number must be a text with"),
        ("{points} points", "{points!r} points", "points must be"),
        ("[ranks]", "[rank]", "higher must be"),
        ("[ranks]", "[ranks", "is not TOML"),
        ('usual = "as', 'usual = 3 # "', "usual must be a text with no slot"),
        ('source = "source"', "source = 1", "names and decimal_sign must be texts"),
    ],
)
def test_a_language_with_a_mistake_ends_with_a_sentence(
    tmp_path: Path, old: str, new: str, why: str
) -> None:
    file = tmp_path / "own.toml"
    text = (FOLDER / "en.toml").read_text()
    file.write_text(text)
    assert language(str(file)) == language("en")
    file = tmp_path / "bad.toml"
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(SettingsError, match=why):
        language(str(file))


def test_an_unknown_language_names_those_that_there_are() -> None:
    with pytest.raises(SettingsError, match="use one of de, en, es, fr, or the path"):
        language("xx")


@given(
    feature=st.sampled_from(["created_at", "lead_score", "numbers.", "\ud800"]) | st.text(),
    contribution=st.floats(),
    value=st.none() | st.sampled_from(["abc.", "1e999.", "-.", "1" * 400 + ".5"]) | st.text(),
    percentile=st.none() | st.floats(),
    given_rate=st.none() | st.floats(),
)
@settings(max_examples=examples(200), deadline=None)
def test_reasons_that_another_producer_wrote_would_stop_the_sink_at_each_start(
    feature: str,
    contribution: float,
    value: str | None,
    percentile: float | None,
    given_rate: float | None,
) -> None:
    reason = {
        "feature": feature,
        "contribution": contribution,
        "value": value,
        "percentile": percentile,
        "given_rate": given_rate,
    }
    for code in CODES:
        assert explanation({"reasons": [reason]}, language(code))


def test_what_is_no_number_or_share_is_shown_as_it_came() -> None:
    words = language("en")
    odd = {"feature": "lead_score", "contribution": 0.1, "value": "12.", "percentile": 7.0}
    usual = {**odd, "percentile": 0.5}
    assert reason_sentence(odd, words) == reason_sentence(usual, words)
    assert "12.," in reason_sentence(odd, words)
