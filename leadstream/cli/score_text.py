"""A prediction in words: probability, interval, grade and reasons."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any


def format_share(share: float) -> str:
    """Return a probability in percent: 28.4 %."""
    return f"{share:.1%}".replace("%", " %")


def format_interval(prediction: Mapping[str, Any]) -> str:
    """Return the interval of a probability in percent: 21.4 to 35.0 %."""
    low, high = (prediction[name] * 100 for name in ("probability_low", "probability_high"))
    return f"{low:.1f} to {high:.1f} %"


def format_reasons(prediction: Mapping[str, Any]) -> list[str]:
    """Return each reason with its points, strongest first: lead_score +4.0."""
    reasons: Sequence[Mapping[str, Any]] = prediction["reasons"]
    return [f"{each['feature']} {each['contribution'] * 100:+.1f}" for each in reasons]


def format_time(milliseconds: int) -> str:
    """Return a time for people, in UTC."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
