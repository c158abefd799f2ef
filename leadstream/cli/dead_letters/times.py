"""Times as users write and read them."""

import re
import time
from datetime import UTC, datetime

from leadstream.errors import SettingsError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_time(option: str, text: str | None) -> int | None:
    """Return milliseconds UTC of an ISO 8601 time (UTC by default) or of an age: 90m, 2h, 3d.

    Raises SettingsError.
    """
    if text is None:
        return None
    if ago := re.fullmatch(r"(\d+)([smhd])", text):
        return time.time_ns() // 1_000_000 - int(ago[1]) * _SECONDS[ago[2]] * 1000
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"{option} {text}: write a time as 2026-11-24T08:00, or as 90m, 2h or 3d ago"
        ) from None
    return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def format_time(milliseconds: int) -> str:
    """Return a time in UTC, to the second."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{milliseconds} ms"
