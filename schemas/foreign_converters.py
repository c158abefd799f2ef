"""The converter of each format of foreign events."""

from collections.abc import Callable
from functools import partial
from typing import Any

from schemas.foreign_formats import (
    ConversionOptions,
    ForeignFormat,
    ForeignMessage,
    from_cloudevent,
    from_debezium,
    from_outbox,
)
from schemas.salesforce import from_salesforce

Converter = Callable[[ForeignMessage, ConversionOptions], list[dict[str, Any]]]


def _single(
    convert: Callable[[ForeignMessage, ConversionOptions], dict[str, Any] | None],
    message: ForeignMessage,
    how: ConversionOptions,
) -> list[dict[str, Any]]:
    record = convert(message, how)
    return [] if record is None else [record]


# The changes in a message: none where nothing changed that a score depends on.
CONVERTERS: dict[ForeignFormat, Converter] = {
    ForeignFormat.DEBEZIUM: partial(_single, from_debezium),
    ForeignFormat.OUTBOX: partial(_single, from_outbox),
    ForeignFormat.CLOUDEVENTS: partial(_single, from_cloudevent),
    ForeignFormat.SALESFORCE: from_salesforce,
}
