"""A prediction in words: probability, interval, reasons and times."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from leadstream.explanation import Language, sentences_by_side


def format_share(share: float) -> str:
    """Return a probability in percent: 28.4 %."""
    return f"{share:.1%}".replace("%", " %")


def format_interval(prediction: Mapping[str, Any]) -> str:
    """Return the interval of a probability in percent: 21.4 to 35.0 %."""
    low, high = (prediction[name] * 100 for name in ("probability_low", "probability_high"))
    return f"{low:.1f} to {high:.1f} %"


def format_time(milliseconds: int) -> str:
    """Return a time for people, in UTC."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def score_rows(found: Mapping[str, Any], words: Language) -> list[tuple[str, str]]:
    """Return what a prediction says, as rows of a name and a text; the reasons as sentences."""
    rows = [
        ("grade", found["grade"]),
        ("probability", f"{format_share(found['probability'])}, from {format_interval(found)}"),
        ("as of", format_time(found["occurred_at"])),
        *([("holds until", format_time(until))] if (until := found.get("valid_until")) else []),
        ("confidence", f"{found['confidence']:.2f} of 1"),
        *_reason_rows(found, words),
    ]
    if found["imputed"]:
        rows.append(("not known", ", ".join(found["imputed"])))
    version = f", version {found['lead_version']}" if found["lead_version"] else ""
    return [
        *rows,
        ("change", f"{found['change_type']} at {format_time(found['occurred_at'])}{version}"),
        ("scored", f"{format_time(found['scored_at'])} by model {found['model_version']}"),
    ]


def _reason_rows(found: Mapping[str, Any], words: Language) -> list[tuple[str, str]]:
    """Return what speaks for the lead and what against it, one sentence a row."""
    rows = [
        ("" if row else name, text)
        for name, texts in zip(("for", "against"), sentences_by_side(found, words), strict=True)
        for row, text in enumerate(texts)
    ]
    return rows or [("reasons", "none are asked for (LEADSTREAM_REASONS)")]
