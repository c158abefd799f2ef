"""One Delta table: opened or made, brought up to date, and appended to in one transaction.

The log keeps minima and maxima of times and offsets only: the log outlives the rows, so it must not
hold an id or a state of a lead.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
from deltalake import (
    CommitProperties,
    DeltaTable,
    Schema,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import (
    CommitFailedError,
    DeltaError,
    DeltaProtocolError,
    SchemaMismatchError,
    TableNotFoundError,
)
from deltalake.schema import ArrayType, StructType

from consumer.history.table_schemas import MONTH
from leadstream.addresses import masked_url, without_secrets
from leadstream.errors import SettingsError, Transient, UserError
from leadstream.kafka.batch import Partition

DEPENDENCY = "history store"
# A remote store that is down may delay the loop by seconds, not by minutes.
_REMOTE = {
    "timeout": "20s",
    "connect_timeout": "3s",
    "max_retries": "2",
    "retry_timeout": "20s",
}
# A row group is held in memory until it is complete.
WRITER = WriterProperties(compression="ZSTD", max_row_group_size=65_536)
# Old commits describe files that are gone; Delta removes them with its next checkpoint.
_LOG_DAYS = 1
_COLORS = re.compile(r"\x1b\[[0-9;]*m|\u21b3")
_MAX_CHARACTERS = 300


class CommitConflict(Exception):
    """Another commit landed first, and this one may no longer be true: reload and decide again."""


def storage_options(url: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the options of the store; keys and regions come from the store's own variables."""
    if "://" not in url or url.startswith("file://"):
        return {}
    plain = environment.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return _REMOTE | ({"allow_http": "true"} if plain else {})


def table_url(root: str, name: str) -> str:
    """Return where a table of the history is."""
    return f"{root.rstrip('/')}/{name}"


class StoredTable:
    """A Delta table of the history. `reload` sees what others committed; nothing else does."""

    def __init__(
        self, root: str, name: str, schema: pa.Schema, measured: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self.root = root
        self.schema = schema
        self.url = table_url(root, name)
        self._options = storage_options(root)
        self._measured = measured
        self._delta: DeltaTable | None = None

    @property
    def delta(self) -> DeltaTable:
        """Return the table as of the last `open` or `reload`."""
        if self._delta is None:
            raise ValueError(f"the table {self.name} is not open")
        return self._delta

    @property
    def is_open(self) -> bool:
        """Return whether the table was there when it was last looked for."""
        return self._delta is not None

    def exists(self) -> bool:
        """Open the table if it is there, without making or changing it; return whether it is."""
        with self.answering():
            try:
                self._delta = DeltaTable(self.url, storage_options=self._options)
            except TableNotFoundError as error:
                if "Unknown scheme" in str(error):
                    raise
                return False
        return True

    def open(self) -> None:
        """Open the table, make it if it is absent, and add the columns that it lacks.

        Raises UserError if a column has another type, Transient if the store does not answer.
        """
        with self.answering():
            if not self.exists():
                self._delta = DeltaTable.create(
                    self.url,
                    Schema.from_arrow(self.schema),
                    mode="ignore",
                    partition_by=[MONTH] if MONTH in self.schema.names else None,
                    configuration={
                        "delta.dataSkippingStatsColumns": ",".join(self._measured),
                        "delta.logRetentionDuration": f"interval {_LOG_DAYS} days",
                    },
                    storage_options=self._options,
                )
        while lacking := self._lacking():
            # A conflict: another process of this version adds the same columns.
            with suppress(CommitConflict), self.answering():
                self.delta.alter.add_columns(lacking)
            self.exists()

    def read(self) -> Any:
        """Return the rows as a dataset of pyarrow, or a table without rows if there is no table.

        Columns that a table of an older version lacks are null.
        """
        if not self.exists():
            return self.schema.empty_table()
        with self.answering():
            stored = pa.schema(self.delta.schema().to_arrow())
            lacking = [field for field in self.schema if field.name not in stored.names]
            return self.delta.to_pyarrow_dataset(schema=pa.schema([*stored, *lacking]))

    def reload(self) -> None:
        """See the newest commit."""
        with self.answering():
            self.delta.update_incremental()

    def offset(self, place: Partition) -> int | None:
        """Return the next offset of a partition, as the table knows it; None if it has none."""
        version = self.delta.transaction_version(transaction_id(place))
        return None if version is None else int(version)

    def append(self, rows: pa.Table, offsets: Mapping[Partition, int]) -> None:
        """Append rows and set the next offsets of their partitions, in one commit.

        Raises CommitConflict if since `reload` another commit set one of these offsets, deleted
        rows, or changed the table.
        """
        transactions = [
            Transaction(transaction_id(place), end) for place, end in sorted(offsets.items())
        ]
        with self.answering():
            write_deltalake(
                self.delta,
                self._fitted(rows),
                mode="append",
                writer_properties=WRITER,
                commit_properties=CommitProperties(app_transactions=transactions),
            )

    def _lacking(self) -> list[pa.Field]:
        """Return the columns that the stored table lacks."""
        stored = {field.name: field.type for field in self.delta.schema().fields}
        wanted = Schema.from_arrow(self.schema).fields
        for field in wanted:
            if not _is_part(stored.get(field.name, field.type), field.type):
                raise UserError(
                    f"the table {self.name} at LEADSTREAM_HISTORY has a column {field.name} of "
                    f"type {stored[field.name]}, not {field.type}: move the folder away, or set "
                    "LEADSTREAM_HISTORY to another one"
                )
        return [field for field in wanted if field.name not in stored]

    def _fitted(self, rows: pa.Table) -> pa.Table:
        """Return the rows with the columns of the stored table, which a newer version may own."""
        stored = pa.schema(self.delta.schema().to_arrow())
        arrays = []
        for field in stored:
            if field.name not in rows.schema.names:
                arrays.append(pa.nulls(len(rows), field.type))
                continue
            # An older table has fewer fields in a list of records: the others are left out.
            listed = pa.types.is_list(field.type)
            values = rows[field.name]
            arrays.append(values.cast(field.type) if listed else values)
        return pa.table(arrays, names=stored.names)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Raise what failed in the block as CommitConflict, Transient or UserError."""
        try:
            yield
        except CommitFailedError as error:
            raise CommitConflict(self._described(error)) from error
        except (DeltaProtocolError, SchemaMismatchError) as error:
            raise UserError(
                f"the table {self.name} at LEADSTREAM_HISTORY cannot be written: "
                f"{self._described(error)}"
            ) from error
        except (DeltaError, OSError) as error:
            detail = self._described(error)
            if "Unknown scheme" in detail:
                raise SettingsError(
                    f"LEADSTREAM_HISTORY={masked_url(self.root)} is neither a folder nor a URL "
                    "that Delta Lake takes, such as s3://bucket/history"
                ) from None
            raise Transient(DEPENDENCY, f"{self.name}: {detail}") from error

    def _described(self, error: Exception) -> str:
        text = " ".join(_COLORS.sub(" ", str(error)).split())
        return without_secrets(text, self.root)[:_MAX_CHARACTERS]


def _is_part(stored: Any, wanted: Any) -> bool:
    """Return whether a stored type holds the wanted one, or records of it with fewer fields."""
    match stored, wanted:
        case ArrayType(), ArrayType():
            return _is_part(stored.element_type, wanted.element_type)
        case StructType(), StructType():
            types = {field.name: field.type for field in wanted.fields}
            return all(types.get(field.name) == field.type for field in stored.fields)
    return bool(stored == wanted)


def transaction_id(place: Partition) -> str:
    """Return the application id of a partition's transactions, such as crm.lead-changes-0."""
    topic, partition = place
    return f"{topic}-{partition}"
