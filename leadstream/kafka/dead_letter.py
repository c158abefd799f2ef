"""Dead letters: the original record with the failure in headers, and the limit on their number.

A letter is always accepted. Its own timestamp is the time of its writing, and a record that is too
large for the topic is cut: the headers say how long it was, its digest, and where the original is.
"""

import hashlib
import hmac
import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

from leadstream.errors import DeadLetterLimit, Poison
from leadstream.kafka.batch import Message, Output, read_headers
from leadstream.kafka.config import Headers
from leadstream.kafka.topic_config import RecordLimits, record_size

MESSAGE_CHARACTERS = 1_000
MESSAGE = "__connect.errors.exception.message"
WINDOW_RECORDS = 1_000
MIN_RECORDS = 50

# Kafka Connect's names, which existing tools show.
_CONNECT = "__connect.errors."
_OURS = "dlq."
REPLAYS = "dlq.replays"
REPLAY_PROOF = "dlq.replay_proof"
TIMESTAMP, TIMESTAMP_TYPE = "dlq.original_timestamp", "dlq.original_timestamp_type"
TIMESTAMP_TYPES = {1: "CreateTime", 2: "LogAppendTime"}
# The parts that were cut, and of each its length and SHA-256; the key that a letter got in place
# of none.
CUT, BYTES, SHA256, NO_KEY = "dlq.cut", "dlq.{}_bytes", "dlq.{}_sha256", "dlq.no_key"

# Text that varies between dead letters of one cause: quoted text, hexadecimal, numbers.
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\b(?:0x)?[a-fA-F]*+\d[0-9a-fA-F]*+\b")


def fingerprint(poison: Poison) -> str:
    """Return a fingerprint that is equal for dead letters of one cause, also after a restart.

    It covers the reason, the stage, and the message without quoted text and numbers.
    """
    return cause_print(poison.reason, poison.stage, poison.detail)


def cause_print(reason: str, stage: str, message: str) -> str:
    """Return the fingerprint of a cause given as text, as in another consumer's dead letters."""
    cause = "\0".join((reason, stage, _VARYING.sub("#", message[:MESSAGE_CHARACTERS])))
    return hashlib.sha256(cause.encode("utf-8", "replace")).hexdigest()[:16]


def dead_letter(
    topic: str,
    message: Message,
    poison: Poison,
    *,
    failed_at: int,
    group_id: str,
    model_version: str,
    limits: RecordLimits | None = None,
    replay_key: str | None = None,
) -> Output:
    """Return the dead letter of a message, with its key, value and headers unchanged if they fit.

    Error headers of an earlier failure are replaced. `failed_at` is in milliseconds UTC. `limits`
    say what the topic accepts. `replay_key` is the secret of `replay_proof`.
    """
    original = read_headers(message)
    cause = poison.__cause__ or poison
    exception = f"{type(cause).__module__}.{type(cause).__qualname__}"
    kind, timestamp = message.timestamp()
    times = {TIMESTAMP: str(timestamp), TIMESTAMP_TYPE: TIMESTAMP_TYPES.get(kind, str(kind))}
    failure: Mapping[str, str] = {
        "__connect.errors.topic": message.topic(),
        "__connect.errors.partition": str(message.partition()),
        "__connect.errors.offset": str(message.offset()),
        "__connect.errors.stage": poison.stage,
        "__connect.errors.exception.class.name": exception,
        MESSAGE: poison.detail[:MESSAGE_CHARACTERS],
        "dlq.reason": poison.reason.value,
        "dlq.fingerprint": fingerprint(poison),
        "dlq.failed_at": str(failed_at),
        "dlq.consumer_group": group_id,
        "dlq.model_version": model_version,
        REPLAYS: str(proven_replays(message, replay_key)),
        **(times if kind else {}),
    }
    own: Headers = [
        (name, value) for name, value in original if not name.startswith((_CONNECT, _OURS))
    ]
    key, added = message.key(), _encoded(failure)
    if key is None and limits is not None and limits.needs_key(topic):
        key = f"{message.topic()}-{message.partition()}-{message.offset()}".encode()
        added.append((NO_KEY, b"true"))
    full = Output(topic, key, message.value(), own + added)
    max_bytes = limits.max_bytes(topic) if limits else None
    if max_bytes is None or record_size(*full[1:4]) <= max_bytes:
        return full
    return _cut(full, own, added, max_bytes)


def _encoded(headers: Mapping[str, str]) -> Headers:
    return [(name, value.encode("utf-8", "replace")) for name, value in headers.items()]


def _cut(letter: Output, own: Headers, added: Headers, max_bytes: int) -> Output:
    """Return a letter of at most `max_bytes` with the beginning of its value.

    Of its own headers and its key, what is large goes first. The message that says what failed is
    the last that is cut.
    """
    key, value = letter.key, letter.value
    content = b"".join(name.encode() + (data or b"") for name, data in own)
    marks = {
        part: _marks(part, data)
        for part, data in (("value", value), ("key", key), ("headers", content))
        if data
    }
    free = max_bytes - record_size(None, None, added) - _size([(CUT, b"value,headers,key")])
    free -= sum(map(_size, marks.values()))
    names = []
    if "headers" in marks and _size(own) > free // 2:
        names, own = ["headers"], []
    if key and len(key) > free // 2:
        names, key = [*names, "key"], key[: max(free // 4, 0)]
    left = max(free - len(key or b"") - _size(own), 0)
    if value is not None and len(value) > left:
        names, value = ["value", *names], value[:left]
    marked = [(CUT, ",".join(names).encode()), *(mark for name in names for mark in marks[name])]
    cut = letter._replace(key=key, value=value, headers=own + added + marked)
    if (excess := record_size(*cut[1:4]) - max_bytes) <= 0:
        return cut
    shorter = [
        (name, data[: max(0, len(data) - excess)] if name == MESSAGE and data else data)
        for name, data in added
    ]
    return cut._replace(headers=own + shorter + marked)


def _size(headers: Headers) -> int:
    return record_size(None, None, headers) - record_size(None, None, None)


def _marks(part: str, data: bytes) -> Headers:
    """Return the headers that say what a part of the original was."""
    digest = hashlib.sha256(data).hexdigest()
    return [(BYTES.format(part), str(len(data)).encode()), (SHA256.format(part), digest.encode())]


def replays(headers: Headers) -> int:
    """Return how often a record was replayed, by its header; 0 without a valid header."""
    for name, value in headers:
        if name == REPLAYS and value is not None and value.isdigit() and len(value) < 10:
            return int(value)
    return 0


def proven_replays(message: Message, secret: str | None) -> int:
    """Return how often triage replayed a record; 0 if its header was not written by triage."""
    headers = read_headers(message)
    if not (count := replays(headers)):
        return 0
    proof = replay_proof(secret, message.topic(), message.key(), message.value(), count)
    return count if hmac.compare_digest(dict(headers).get(REPLAY_PROOF) or b"", proof) else 0


def replay_proof(
    secret: str | None, topic: str, key: bytes | None, value: bytes | None, count: int
) -> bytes:
    """Return the header that shows that triage counted a replay: an HMAC over the record.

    Without a secret it only tells other producers' headers apart, and anyone can compute it.
    """
    parts = (topic.encode(), key or b"", value or b"", str(count).encode())
    text = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hmac.new((secret or "leadstream").encode(), text, "sha256").hexdigest().encode()


class Limit:
    """A limit on dead letters: their ratio in the last 1,000 records, and their number in a row.

    A `max_ratio` of 1 or a `max_consecutive` of 0 never stops the process. The ratio is checked
    from 50 records on, so that the first bad record of a quiet topic stops nothing.
    """

    def __init__(self, max_ratio: float, max_consecutive: int) -> None:
        self._max_ratio = max_ratio
        self._max_consecutive = max_consecutive
        self._window: deque[Poison | None] = deque(maxlen=WINDOW_RECORDS)
        self._in_row = 0

    def check(self, letters: Iterable[Poison | None], messages: Sequence[Message] = ()) -> None:
        """Check a batch before its commit. `letters` holds the error of each record, or None.

        `messages` are its records. Raises DeadLetterLimit, which names the most frequent cause and
        a record with it; then the batch does not count.
        """
        window, in_row = self._window.copy(), self._in_row
        given = list(letters)
        for letter in given:
            window.append(letter)
            in_row = in_row + 1 if letter is not None else 0
            if self._max_consecutive and in_row > self._max_consecutive:
                raise DeadLetterLimit(
                    f"{in_row} records in a row are dead letters, more than "
                    f"LEADSTREAM_DEAD_LETTER_MAX_CONSECUTIVE={self._max_consecutive}; "
                    f"their batch was not committed: {_main_cause(window, given, messages)}; "
                    "fix the cause or raise the limit"
                )
        bad = len(window) - window.count(None)
        if len(window) >= MIN_RECORDS and bad > self._max_ratio * len(window):
            raise DeadLetterLimit(
                f"{bad} of the last {len(window)} records are dead letters, more than "
                f"LEADSTREAM_DEAD_LETTER_MAX_RATIO={self._max_ratio:g}; "
                f"the batch was not committed: {_main_cause(window, given, messages)}; "
                "fix the cause or raise the limit"
            )
        self._window, self._in_row = window, in_row


def _main_cause(
    window: Iterable[Poison | None], letters: Sequence[Poison | None], messages: Sequence[Message]
) -> str:
    """Return the most frequent cause: its share, reason, stage, fingerprint, and an example.

    The letters of the batch are not written, so the example is the place of the record itself.
    """
    bad = [letter for letter in window if letter is not None]
    prints = [fingerprint(letter) for letter in bad]
    [(main, count)] = Counter(prints).most_common(1)
    first = bad[prints.index(main)]
    example = next(
        (
            f", for example {message.topic()} partition {message.partition()} "
            f"offset {message.offset()}"
            for message, letter in zip(messages, letters, strict=False)
            if letter is not None and fingerprint(letter) == main
        ),
        "",
    )
    return (
        f"{count / len(bad):.0%} of them are {first.reason.value} in the step {first.stage}, "
        f"dlq.fingerprint {main}{example}"
    )
