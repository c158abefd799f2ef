"""Dead letters: the original record with the failure in headers, and the limit on their number."""

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Mapping

from leadstream.errors import DeadLetterLimit, Poison
from leadstream.kafka.batch import Message, Output, read_headers
from leadstream.kafka.config import Headers

MESSAGE_CHARACTERS = 1_000
WINDOW_RECORDS = 1_000
MIN_RECORDS = 50

# Kafka Connect's names, which existing tools show.
_CONNECT = "__connect.errors."
_OURS = "dlq."
REPLAYS = "dlq.replays"

# Text that varies between dead letters of one cause: quoted text, hexadecimal, numbers.
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\b(?:0x)?[0-9a-fA-F]*\d[0-9a-fA-F]*\b")


def fingerprint(poison: Poison) -> str:
    """Return a fingerprint that is equal for dead letters of one cause, also after a restart.

    It covers the reason, the stage, and the message without quoted text and numbers.
    """
    return cause_print(poison.reason, poison.stage, poison.detail)


def cause_print(reason: str, stage: str, message: str) -> str:
    """Return the fingerprint of a cause given as text, as in another consumer's dead letters."""
    cause = "\0".join((reason, stage, _VARYING.sub("#", message)))
    return hashlib.sha256(cause.encode("utf-8", "replace")).hexdigest()[:16]


def dead_letter(
    topic: str,
    message: Message,
    poison: Poison,
    *,
    failed_at: int,
    group_id: str,
    model_version: str,
) -> Output:
    """Return the dead letter of a message, with its key, value, timestamp and headers unchanged.

    Error headers of an earlier failure are replaced. `failed_at` is in milliseconds UTC.
    """
    original = read_headers(message)
    cause = poison.__cause__ or poison
    exception = f"{type(cause).__module__}.{type(cause).__qualname__}"
    failure: Mapping[str, str] = {
        "__connect.errors.topic": message.topic(),
        "__connect.errors.partition": str(message.partition()),
        "__connect.errors.offset": str(message.offset()),
        "__connect.errors.stage": poison.stage,
        "__connect.errors.exception.class.name": exception,
        "__connect.errors.exception.message": poison.detail[:MESSAGE_CHARACTERS],
        "dlq.reason": poison.reason.value,
        "dlq.fingerprint": fingerprint(poison),
        "dlq.failed_at": str(failed_at),
        "dlq.consumer_group": group_id,
        "dlq.model_version": model_version,
        REPLAYS: str(replays(original)),
    }
    headers: Headers = [
        (name, value) for name, value in original if not name.startswith((_CONNECT, _OURS))
    ]
    headers += [(name, value.encode("utf-8", "replace")) for name, value in failure.items()]
    kind, timestamp = message.timestamp()
    return Output(topic, message.key(), message.value(), headers, timestamp if kind else None)


def replays(headers: Headers) -> int:
    """Return how often a record was replayed as a dead letter; 0 without a valid header."""
    for name, value in headers:
        if name == REPLAYS and value is not None and value.isdigit() and len(value) < 10:
            return int(value)
    return 0


class Limit:
    """A limit on dead letters: their ratio in the last 1,000 records, and their number in a row.

    A `max_ratio` of 1 or a `max_consecutive` of 0 never stops the process. The ratio is checked
    from 50 records on, so that the first bad record of a quiet topic stops nothing.
    """

    def __init__(self, max_ratio: float, max_consecutive: int) -> None:
        self._max_ratio = max_ratio
        self._max_consecutive = max_consecutive
        self._window: deque[bool] = deque(maxlen=WINDOW_RECORDS)
        self._in_row = 0

    def check(self, letters: Iterable[Poison | None]) -> None:
        """Check a batch before its commit. `letters` holds the error of each record, or None.

        Raises DeadLetterLimit; then the batch does not count.
        """
        window, in_row = self._window.copy(), self._in_row
        for is_letter in [letter is not None for letter in letters]:
            window.append(is_letter)
            in_row = in_row + 1 if is_letter else 0
            if self._max_consecutive and in_row > self._max_consecutive:
                raise DeadLetterLimit(
                    f"{in_row} records in a row are dead letters, more than "
                    f"LEADSTREAM_DEAD_LETTER_MAX_CONSECUTIVE={self._max_consecutive}; "
                    "their batch was not committed: fix the cause or raise the limit"
                )
        bad = sum(window)
        if len(window) >= MIN_RECORDS and bad > self._max_ratio * len(window):
            raise DeadLetterLimit(
                f"{bad} of the last {len(window)} records are dead letters, more than "
                f"LEADSTREAM_DEAD_LETTER_MAX_RATIO={self._max_ratio:g}; "
                "the batch was not committed: fix the cause or raise the limit"
            )
        self._window, self._in_row = window, in_row
