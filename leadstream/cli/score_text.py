"""A prediction in words: probability, interval and times."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


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
