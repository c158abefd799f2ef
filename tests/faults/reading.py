"""Records as their topics hold them, read for the checker: what each output says of itself."""

from collections.abc import Callable
from functools import partial

from leadstream.kafka.batch import Message
from schemas.codec import Reader
from tests.faults.history import Line, Output, Place, Record


def record_of(message: Message) -> Record:
    """A consumed or made-up message as a record."""
    place = Place(message.topic(), message.partition())
    headers = tuple(message.headers() or ())
    return Record(
        place, message.offset(), message.key(), message.value(), headers, message.timestamp()[1]
    )


def prediction(record: Record, transaction: int | None, reader: Reader) -> Output:
    """A record of the predictions, or the null that erases one."""
    lead = (record.key or b"").decode("utf-8", "replace")
    if record.value is None:
        return Output(record, transaction, lead)
    told = reader.decode(record.value)
    return Output(
        record,
        transaction,
        lead=told["lead_id"],
        version=told["lead_version"],
        coalesced=told["coalesced_changes"],
        source=(Place(told["source_topic"], told["source_partition"]), told["source_offset"]),
        model=told["model_version"],
    )


def letter(record: Record, transaction: int | None) -> Output:
    """A dead letter: its last headers are those that Leadstream added."""
    told = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
    place = Place(told["__connect.errors.topic"], int(told["__connect.errors.partition"]))
    return Output(
        record,
        transaction,
        source=(place, int(told["__connect.errors.offset"])),
        model=told["dlq.model_version"],
        reason=told["dlq.reason"],
    )


def result(record: Record, transaction: int | None) -> Output:
    """A rescore result, told by its request's id."""
    return Output(record, transaction, lead=(record.key or b"").decode("utf-8", "replace"))


def readings(reader: Reader) -> dict[str, Callable[[Record, int | None], Output]]:
    """By the field of their topic how to read the outputs; `reader` is that of the predictions."""
    return {
        "lead_predictions": partial(prediction, reader=reader),
        "dead_letters": letter,
        "rescore_results": result,
    }


def line(event: dict[str, object]) -> Line:
    """A `batch` event of the log."""
    counts = {name: int(str(event[name])) for name in Line.__dataclass_fields__ if name != "model"}
    return Line(**counts, model=str(event["model_version"]))
