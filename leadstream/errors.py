"""The errors of Leadstream, and the consequence of each.

    LeadstreamError
    ├── Poison               one record cannot be processed: a dead letter, the others go on
    ├── Transient            a dependency is unreachable: pause, rewind, and try again
    │   └── RecordRefused    the brokers refused a record: rewind, and try again within the limit
    ├── Fenced               another process owns the work now: drop both clients and rejoin
    └── UserError            a person can fix it: one clear sentence, exit code 1
        ├── SettingsError    wrong settings or usage: exit code 2
        ├── OutputLost       standard output cannot be written: exit code 1
        └── DeadLetterLimit  too many dead letters: nothing committed, exit code 3

Any other exception is a bug: the process stops without a commit, with one stack trace and exit
code 1.
"""

from enum import StrEnum
from typing import Any


def error_text(error: Any) -> str:
    """Return the text of another library's error, which is never empty.

    Some errors have no text, and some of a client's answers end before their cause, as in
    `ConsumerGroupDescribe: `. The name of the error completes those.
    """
    inner = error.args[0] if getattr(error, "args", None) else error
    kafka = inner if hasattr(inner, "retriable") else None
    text = str(kafka.str() if kafka is not None else error).strip()
    if text and not text.endswith(":"):
        return text
    return f"{text} {type(error).__name__ if kafka is None else kafka.name()}".strip()


class Reason(StrEnum):
    """The reason of a dead letter: the values of the header `dlq.reason`."""

    UNKNOWN_FRAMING = "UNKNOWN_FRAMING"
    UNKNOWN_SCHEMA = "UNKNOWN_SCHEMA"
    DECODE_FAILED = "DECODE_FAILED"
    INVALID_EVENT = "INVALID_EVENT"
    INVALID_REQUEST = "INVALID_REQUEST"
    LEAD_NOT_FOUND = "LEAD_NOT_FOUND"
    FEATURE_FAILED = "FEATURE_FAILED"
    SCORING_FAILED = "SCORING_FAILED"
    ENCODE_FAILED = "ENCODE_FAILED"
    OVERSIZED = "OVERSIZED"


class LeadstreamError(Exception):
    """The root of every error that Leadstream raises on purpose."""


class Poison(LeadstreamError):
    """One record that can never be processed as it is.

    `stage` is the step that failed (decode, validate, state, features, score, encode), and `detail`
    is one sentence.
    """

    def __init__(self, reason: Reason, stage: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.stage = stage
        self.detail = detail

    def __reduce__(self) -> tuple[type["Poison"], tuple[Reason, str, str]]:
        return type(self), (self.reason, self.stage, self.detail)


class Transient(LeadstreamError):
    """A dependency that does not answer now, but may later.

    Its name is `postgres`, `registry`, `brokers`, `model store` or `history store`.
    """

    def __init__(self, dependency: str, detail: str) -> None:
        super().__init__(f"{dependency}: {detail}")
        self.dependency = dependency
        self.detail = detail


class RecordRefused(Transient):
    """Records that the brokers did not accept; their limits are known now."""


class Fenced(LeadstreamError):
    """A producer that was fenced or became unusable; its uncommitted work has a new owner."""


class UserError(LeadstreamError):
    """A problem that a person can fix; the text is one clear sentence.

    `has_lines` says that the text has lines on purpose; of others, a stranger wrote the line break.
    """

    exit_code = 1
    has_lines = False


class SettingsError(UserError):
    """A wrong setting or wrong usage; the text names it and the fix."""

    exit_code = 2


class OutputLost(UserError):
    """Standard output that cannot be written, as on a full disk."""


class OutputClosed(Exception):
    """The reader of standard output has gone, as `| head` does: no failure."""


class DeadLetterLimit(UserError):
    """More dead letters than the settings allow; nothing of their batch was committed."""

    exit_code = 3
