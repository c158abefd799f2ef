"""The watch over the columns of the CRM that the model in service reads."""

from collections.abc import Collection
from typing import Protocol

from leadstream.log import Logger
from leadstream.process.status import Status
from models.serve.scorer import Model


class CrmColumns(Protocol):
    """A reader of the CRM that knows which fields have no column."""

    lacking: tuple[str, ...]


class ColumnWatch:
    """Warns while the CRM lacks a column of an input, whose values are imputed then.

    `described` are the fields that the description of the CRM names; other own fields have no
    column.
    """

    def __init__(
        self, crm: CrmColumns, status: Status, logger: Logger, described: Collection[str] = ()
    ) -> None:
        self._crm = crm
        self._described = frozenset(described)
        self._status = status
        self._logger = logger
        self._seen: tuple[tuple[str, ...], Model | None] = ((), None)
        self._reported: list[str] = []

    def follow(self, model: Model | None) -> None:
        """Look at the columns for the model in service."""
        seen = (self._crm.lacking, model)
        if model is None or (seen[0] is self._seen[0] and seen[1] is self._seen[1]):
            return
        self._seen = seen
        inputs = {spec.name for spec in model.specification.inputs}
        missing = [field for field in self._crm.lacking if field in inputs]
        missing += sorted(name for name in inputs if "." in name and name not in self._described)
        if missing == self._reported:
            return
        self._reported = missing
        why = (
            f"the CRM has no usable column for {', '.join(missing)}: model {model.version} gets "
            "the median or no category instead; was a column renamed, or its type changed, or does "
            "LEADSTREAM_FIELDS not describe it?"
        )
        if missing:
            self._logger.warning("postgres.columns", missing=missing, detail=why)
        self._status.warn("postgres columns", why if missing else None)
