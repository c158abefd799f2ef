"""Dead letters: the original byte for byte, the facts in headers; and the limit on how many there may be."""

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Mapping

from leadstream.errors import DeadLetterLimit, Poison
from leadstream.kafka.batch import Message, Output
from leadstream.kafka.config import Headers

MESSAGE_CHARACTERS = 1_000
WINDOW_RECORDS = 1_000
JUDGED_FROM_RECORDS = 50

# Kafka Connect's names, which existing tools show.
_CONNECT = "__connect.errors."
_OURS = "dlq."
REPLAYS = "dlq.replays"

# What varies between letters of the same cause: quoted text, hexadecimal, numbers.
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\b(?:0x)?[0-9a-fA-F]*\d[0-9a-fA-F]*\b")


def fingerprint(poison: Poison) -> str:
    """Equal for letters with the same cause, over restarts: reason, stage and the message without what varies."""
    return cause_print(poison.reason, poison.stage, poison.detail)


def cause_print(reason: str, stage: str, message: str) -> str:
    """The same of a cause that is told in words: for letters that others wrote."""
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
    """The letter for `message`: its key, value, timestamp and headers as they were, earlier error headers replaced.

    `failed_at` is milliseconds UTC.
    """
    original = message.headers() or []
    cause = poison.__cause__ or poison
    facts: Mapping[str, str] = {
        "__connect.errors.topic": message.topic(),
        "__connect.errors.partition": str(message.partition()),
        "__connect.errors.offset": str(message.offset()),
        "__connect.errors.stage": poison.stage,
        "__connect.errors.exception.class.name": f"{type(cause).__module__}.{type(cause).__qualname__}",
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
    headers += [(name, value.encode("utf-8", "replace")) for name, value in facts.items()]
    kind, timestamp = message.timestamp()
    return Output(topic, message.key(), message.value(), headers, timestamp if kind else None)


def replays(headers: Headers) -> int:
    """How often this record has been replayed from the dead-letter topic; 0 where nothing readable says."""
    for name, value in headers:
        if name == REPLAYS and value is not None and value.isdigit() and len(value) < 10:
            return int(value)
    return 0


class Limit:
    """Stops the process when dead letters are more than `max_ratio` of the last 1,000 records, or more than
    `max_consecutive` in a row. A ratio of 1 or a count of 0 never stops it.

    The ratio is judged once 50 records were seen, so the first bad record of a quiet topic stops nothing.
    """

    def __init__(self, max_ratio: float, max_consecutive: int) -> None:
        self._max_ratio = max_ratio
        self._max_consecutive = max_consecutive
        self._window: deque[bool] = deque(maxlen=WINDOW_RECORDS)
        self._in_row = 0

    def check(self, letters: Iterable[Poison | None]) -> None:
        """Judge a batch before it is committed, by why each record became a dead letter, or None.

        Raises DeadLetterLimit, and then the batch does not count.
        """
        window, in_row = self._window.copy(), self._in_row
        for is_letter in [letter is not None for letter in letters]:
            window.append(is_letter)
            in_row = in_row + 1 if is_letter else 0
            if self._max_consecutive and in_row > self._max_consecutive:
                raise DeadLetterLimit(
                    f"{in_row} records in a row are dead letters, more than LEADSTREAM_DEAD_LETTER_MAX_CONSECUTIVE="
                    f"{self._max_consecutive}; their batch was not committed: mend the cause or raise the limit"
                )
        bad = sum(window)
        if len(window) >= JUDGED_FROM_RECORDS and bad > self._max_ratio * len(window):
            raise DeadLetterLimit(
                f"{bad} of the last {len(window)} records are dead letters, more than "
                f"LEADSTREAM_DEAD_LETTER_MAX_RATIO={self._max_ratio:g}; the batch was not committed: "
                "mend the cause or raise the limit"
            )
        self._window, self._in_row = window, in_row
