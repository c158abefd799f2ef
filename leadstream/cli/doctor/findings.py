"""The findings of the doctor: a status and a sentence each."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class CheckStatus(StrEnum):
    """`OK`; `NOTE`, which may be intended; or `FAIL`, which a consumer should not start with."""

    OK = "ok"
    NOTE = "note"
    FAIL = "mend"  # the word of `--json` since 0.1

    def label(self) -> str:
        """Return the status for people; a failure is in capitals."""
        return "FAIL" if self is CheckStatus.FAIL else self.value


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding; the sentence of a note or a failure says what to do."""

    check: str
    status: CheckStatus
    detail: str

    def as_json(self) -> dict[str, Any]:
        """Return the fields, and `ok`, which is false only for a failure."""
        return {
            "check": self.check,
            "verdict": self.status.value,
            "detail": self.detail,
            "ok": self.status is not CheckStatus.FAIL,
        }


def ok(check: str, detail: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(check, CheckStatus.OK, detail)


def note(check: str, detail: str) -> Finding:
    """Return a finding to know about."""
    return Finding(check, CheckStatus.NOTE, detail)


def fail(check: str, detail: str) -> Finding:
    """Return a finding to fix."""
    return Finding(check, CheckStatus.FAIL, detail)


def format_duration(seconds: float) -> str:
    """Return a rounded time: 45 s, 30 min, 2 h, 7 days, ever."""
    if seconds == float("inf"):
        return "ever"
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if (count := round(seconds / length)) >= 1 and seconds >= 0.95 * length:
            return "1 day" if (unit, count) == ("days", 1) else f"{count:,} {unit}"
    return f"{seconds:.0f} s"
