"""Records as their topics hold them, read for the checker: what each output says of itself."""

from collections.abc import Callable
from functools import partial

from leadstream.kafka.batch import Message
from schemas.codec import Reader
from tests.faults.history import BatchLine, HistoryRecord, TopicSlice, VisibleRecord


def record_of(message: Message) -> HistoryRecord:
    """A consumed or made-up message as a record."""
    place = TopicSlice(message.topic(), message.partition())
    headers = tuple(message.headers() or ())
    return HistoryRecord(
        place, message.offset(), message.key(), message.value(), headers, message.timestamp()[1]
    )


def prediction(record: HistoryRecord, transaction: int | None, reader: Reader) -> VisibleRecord:
    """A record of the predictions, or the null that erases one."""
    lead = (record.key or b"").decode("utf-8", "replace")
    if record.value is None:
        return VisibleRecord(record, transaction, lead)
    fields = reader.decode(record.value)
    return VisibleRecord(
        record,
        transaction,
        lead=fields["lead_id"],
        version=fields["lead_version"],
        coalesced=fields["coalesced_changes"],
        source=(
            TopicSlice(fields["source_topic"], fields["source_partition"]),
            fields["source_offset"],
        ),
        model=fields["model_version"],
    )


def letter(record: HistoryRecord, transaction: int | None) -> VisibleRecord:
    """A dead letter: its last headers are those that Leadstream added."""
    fields = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
    place = TopicSlice(fields["__connect.errors.topic"], int(fields["__connect.errors.partition"]))
    return VisibleRecord(
        record,
        transaction,
        source=(place, int(fields["__connect.errors.offset"])),
        model=fields["dlq.model_version"],
        reason=fields["dlq.reason"],
    )


def result(record: HistoryRecord, transaction: int | None) -> VisibleRecord:
    """A rescore result, told by its request's id."""
    return VisibleRecord(record, transaction, lead=(record.key or b"").decode("utf-8", "replace"))


def readings(reader: Reader) -> dict[str, Callable[[HistoryRecord, int | None], VisibleRecord]]:
    """By the field of their topic how to read the outputs; `reader` is that of the predictions."""
    return {
        "lead_predictions": partial(prediction, reader=reader),
        "dead_letters": letter,
        "rescore_results": result,
    }


def line(event: dict[str, object]) -> BatchLine:
    """A `batch` event of the log."""
    counts = {
        name: int(str(event[name])) for name in BatchLine.__dataclass_fields__ if name != "model"
    }
    return BatchLine(**counts, model=str(event["model_version"]))
