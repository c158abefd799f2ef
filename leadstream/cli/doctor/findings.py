"""What a check says: a verdict, and a sentence."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """`ok`; `note`, which may be as it is meant; or `mend`, which no consumer should start with."""

    OK = "ok"
    NOTE = "note"
    MEND = "mend"

    def shown(self) -> str:
        """As people see it: what is to be mended stands out."""
        return self.upper() if self is Verdict.MEND else self.value


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; the sentence of a note or a mend says what to do."""

    check: str
    verdict: Verdict
    detail: str

    def as_json(self) -> dict[str, Any]:
        """Its fields, and `ok`, which is false only where something is to be mended."""
        return asdict(self) | {"ok": self.verdict is not Verdict.MEND}


def ok(check: str, detail: str) -> Finding:
    """Nothing to do."""
    return Finding(check, Verdict.OK, detail)


def note(check: str, detail: str) -> Finding:
    """Something to know."""
    return Finding(check, Verdict.NOTE, detail)


def mend(check: str, detail: str) -> Finding:
    """Something to do."""
    return Finding(check, Verdict.MEND, detail)


def lasting(seconds: float) -> str:
    """A time as people say it, rounded: 45 s, 30 min, 2 h, 7 days, ever."""
    if seconds == float("inf"):
        return "ever"
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if (count := round(seconds / length)) >= 1 and seconds >= 0.95 * length:
            return "1 day" if (unit, count) == ("days", 1) else f"{count:,} {unit}"
    return f"{seconds:.0f} s"
