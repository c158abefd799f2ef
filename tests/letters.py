"""Dead letters as the consumers write them, with good values: as if what they failed of had been
fixed since.
"""

from consumer.dead_letters.letters import Letter
from leadstream.errors import Poison, Reason
from leadstream.kafka.batch import Output
from leadstream.kafka.config import Headers
from leadstream.kafka.dead_letter import dead_letter
from tests.fakes import FakeMessage
from tests.unit.pipelines import CHANGES, LETTERS, NOW_MS

# Six causes, each with something in its words that varies.
CAUSES = (
    (
        Reason.DECODE_FAILED,
        "decode",
        "The body ends too early, or a number in it is wrong (seen at byte {i} of 990).",
    ),
    (Reason.LEAD_NOT_FOUND, "state", "the change carries no state and Postgres has no such lead"),
    (Reason.FEATURE_FAILED, "features", "academic_week of lead '{i}' cannot be computed"),
    (Reason.SCORING_FAILED, "score", "the forest cannot answer for {i}"),
    (Reason.INVALID_EVENT, "validate", "created_at is {i} ms after occurred_at"),
    (Reason.OVERSIZED, "decode", "the value has {i} bytes; a lead change has at most 262144"),
)


def cause(i: int) -> Poison:
    """One of the six, with `i` in its words."""
    reason, stage, words = CAUSES[i % len(CAUSES)]
    return Poison(reason, stage, words.format(i=i))


def letter_output(
    i: int,
    key: bytes | None,
    value: bytes | None,
    *,
    origin: str = CHANGES,
    topic: str = LETTERS,
    headers: Headers | None = None,
    sent_at: int = NOW_MS - 60_000,
    failed_at: int = NOW_MS,
) -> Output:
    """The letter number `i`, as it is published.

    A broker keeps it only if `sent_at` (ms UTC) is not too long ago.
    """
    message = FakeMessage(
        origin, i % 4, i, key, value, headers or [("trace", b"\x00\xff")], sent_at + i
    )
    return dead_letter(
        topic, message, cause(i), failed_at=failed_at, group_id="leadstream", model_version="1.0.0"
    )


def letter(i: int, key: bytes | None, value: bytes | None, **fields: object) -> Letter:
    """The same as it is read, at partition 0 and offset `i`."""
    # passed on as they are
    output = letter_output(i, key, value, **fields)  # type: ignore[arg-type]
    return Letter.from_message(
        FakeMessage(output.topic, 0, i, output.key, output.value, output.headers, output.timestamp)
    )
