"""Bytes on the wire to records and back, in both framings.

    single object   C3 01 · CRC-64-AVRO fingerprint of the writer schema, 8 bytes little endian
                    · Avro body
    Confluent       00 · id of the writer schema in the registry, 4 bytes big endian · Avro body

Records are dicts of basic Python values. Times are ints (milliseconds UTC), so that no value can
overflow a datetime.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.read import SchemaResolutionError

from leadstream.errors import Poison, Reason
from schemas import schema_files
from schemas.limits import parse_bounded
from schemas.validation import RecordValidationError, compile_validator, lone_surrogate

if TYPE_CHECKING:
    from schemas.registry import Registry

_SINGLE_OBJECT = b"\xc3\x01"
_CONFLUENT = b"\x00"
_SINGLE_OBJECT_HEADER = 10
_CONFLUENT_HEADER = 5


def confluent_id(value: bytes | None) -> int:
    """Return the schema id that a value in Confluent's framing names; 0 without such framing."""
    framed = value is not None and len(value) >= 5 and value[:1] == b"\0"
    return int.from_bytes(value[1:5], "big") if framed and value is not None else 0


class Reader:
    """A decoder of the values of one record, in either framing, to its current schema.

    `record` is the Avro name of the record, for example LeadChanged.
    """

    def __init__(self, record: str, registry: "Registry | None" = None) -> None:
        self._record = record
        self._registry = registry
        self.schema = _current(record)
        self._bodies = {
            _SINGLE_OBJECT + mark: _body(schema, record)
            for mark, (name, schema) in _known_writers().items()
            if name == record
        }

    def current_headers(self) -> list[bytes]:
        """Return each header, seen until now, whose bodies are written by the current schema."""
        return [header for header, body in self._bodies.items() if body.reader is None]

    def decode(self, value: bytes) -> dict[str, Any]:
        """Decode the record in `value`: absent optional fields are None, enums are str.

        Raises Poison (UNKNOWN_FRAMING, UNKNOWN_SCHEMA, DECODE_FAILED), or Transient if the registry
        does not answer.
        """
        start, body = self._framed(value)
        stream = BytesIO(value)
        stream.seek(start)
        try:
            record = body.read(stream)
        except (EOFError, IndexError):
            detail = (
                "The body ends too early, or a number in it is wrong "
                f"(seen at byte {stream.tell()} of {len(value)})."
            )
        except KeyError:
            detail = f"The schema has no enum symbol of that number (before byte {stream.tell()})."
        except UnicodeDecodeError:
            detail = f"A text is not valid UTF-8 (it ends before byte {stream.tell()})."
        except SchemaResolutionError:
            detail = (
                "The value is well-formed, but holds what the present schema of "
                f"{self._record} has no place for."
            )
        except Exception as error:  # noqa: BLE001 -- whatever fastavro raises is about this value
            detail = f"The value cannot be decoded: it causes a {type(error).__name__}."
        else:
            if stream.tell() == len(value):
                return record
            left = len(value) - stream.tell()
            detail = f"The record ends at byte {stream.tell()}, but {left} more bytes follow."
        raise _poison(Reason.DECODE_FAILED, detail)

    def prepare(self, values: Iterable[bytes | None]) -> None:
        """Ask the registry for the schemas of values that `decode` will meet, several at a time.

        Raises Transient if it does not answer, or has many to answer for.
        """
        if self._registry is not None:
            unseen = (
                v for v in values if v is not None and v[:_CONFLUENT_HEADER] not in self._bodies
            )
            self._registry.learn({number for v in unseen if (number := confluent_id(v))})

    def learn_releases(self, topic: str) -> None:
        """Learn the schema ids of what every release writes to `topic`.

        From then on our records are known whatever the registry says of their ids. Raises
        Transient and UserError.
        """
        if self._registry is None:
            return
        present = {self._record: schema_files.current_schema(self._record)}
        for schemas in (*schema_files.released_schemas().values(), present):
            if self._record in schemas:
                self._registry.find_id(f"{topic}-value", schemas[self._record])

    def layout(self, value: bytes) -> tuple[int, Any]:
        """Return where the body of `value` starts, and the writer schema that it names.

        Raises as `decode` does.
        """
        start, body = self._framed(value)
        return start, body.writer

    def _framed(self, value: bytes) -> "tuple[int, _Body]":
        body = self._bodies.get(value[:_SINGLE_OBJECT_HEADER])
        if body is not None:
            return _SINGLE_OBJECT_HEADER, body
        return _CONFLUENT_HEADER, self._bodies.get(value[:_CONFLUENT_HEADER]) or self._unseen(value)

    def _unseen(self, value: bytes) -> "_Body":
        """Return the body of a value with a header that is new to this reader.

        Raises Poison, Transient.
        """
        if value[:1] == _CONFLUENT and len(value) >= _CONFLUENT_HEADER:
            return self._from_registry(value[:_CONFLUENT_HEADER])
        if value[:2] == _SINGLE_OBJECT and len(value) >= _SINGLE_OBJECT_HEADER:
            mark = value[2:_SINGLE_OBJECT_HEADER]
            name, _ = _known_writers().get(mark, (None, None))
            what = (
                f"is that of {name}, not of {self._record}"
                if name
                else f"belongs to no known version of {self._record}"
            )
            raise _poison(
                Reason.UNKNOWN_SCHEMA, f"The schema fingerprint {mark[::-1].hex()} {what}."
            )
        raise _poison(Reason.UNKNOWN_FRAMING, _describe(value, self._record))

    def _from_registry(self, header: bytes) -> "_Body":
        number = int.from_bytes(header[1:], "big")
        if self._registry is None:
            detail = (
                f"The value names schema id {number} of a registry, "
                "but none is configured (SCHEMA_REGISTRY_URL)."
            )
            raise _poison(Reason.UNKNOWN_SCHEMA, detail)
        schema = self._registry.schema(number)
        name = schema.get("name", "") if isinstance(schema, dict) else ""
        if str(name).rpartition(".")[2] != self._record:
            raise _poison(
                Reason.UNKNOWN_SCHEMA, f"Schema id {number} is not a schema of {self._record}."
            )
        try:
            body = _body(schema, self._record)
        except Exception:  # noqa: BLE001 -- whatever fastavro raises is about this schema
            detail = (
                f"The registry's schema id {number} cannot be used: "
                "it is not valid Avro, or its values have no bounds."
            )
            raise _poison(Reason.DECODE_FAILED, detail) from None
        self._bodies[header] = body
        return body


class Writer:
    """An encoder of one record by its current schema.

    The framing is Confluent's if a registry is given, else single object.
    """

    def __init__(
        self, record: str, registry: "Registry | None" = None, topic: str | None = None
    ) -> None:
        if registry is not None and topic is None:
            raise ValueError("a registry needs the topic: it is part of the subject's name")
        self._record = record
        self._registry = registry
        self._topic = topic
        self.schema = _current(record)
        self._check = compile_validator(schema_files.current_schema(record))
        self._header = (
            None
            if registry
            else _SINGLE_OBJECT
            + schema_files.fingerprint_bytes(schema_files.current_schema(record))
        )

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """Encode `record` with its framing; fields with a default may be left out.

        Raises Poison(ENCODE_FAILED) if the record does not fit the schema, and Transient if the
        registry does not answer.
        """
        header = self.header()
        stream = BytesIO(header)
        stream.seek(len(header))
        try:
            self._check(record)
            schemaless_writer(stream, self.schema, record)
        except RecordValidationError as error:
            raise Poison(
                Reason.ENCODE_FAILED, "encode", f"{self._record} cannot be written: {error}."
            ) from None
        except UnicodeEncodeError:
            detail = f"{self._record} cannot be written: {lone_surrogate(record)}."
            raise Poison(Reason.ENCODE_FAILED, "encode", detail) from None
        except OverflowError:
            detail = f"{self._record} cannot be written: a number is too large for its type."
            raise Poison(Reason.ENCODE_FAILED, "encode", detail) from None
        return stream.getvalue()

    def header(self) -> bytes:
        """Return the bytes before each body. Raises Transient if the registry does not answer."""
        return self._header or self._register()

    def open(self) -> None:
        """Fetch the header now, so that `encode` asks no registry.

        Raises Transient; UserError if the registry refuses the schema.
        """
        self.header()

    def _register(self) -> bytes:
        # Without a registry, __init__ sets the header.
        assert self._registry is not None  # noqa: S101
        number = self._registry.schema_id(
            f"{self._topic}-value", schema_files.current_schema(self._record)
        )
        self._header = _CONFLUENT + number.to_bytes(4, "big")
        return self._header


@dataclass(frozen=True, slots=True)
class _Body:
    """The schemas that decode a body: the writer's, and the current one if it differs."""

    writer: Any
    reader: Any = None

    def read(self, stream: BytesIO) -> dict[str, Any]:
        start = stream.tell()
        record: Any = schemaless_reader(stream, self.writer, None)
        if self.reader is not None:
            # fastavro checks nothing in a field that it skips, so resolve only a value that is
            # valid by its writer schema.
            stream.seek(start)
            record = _unshared(schemaless_reader(stream, self.writer, self.reader))
        return cast(dict[str, Any], record)


def _body(schema: Any, record: str) -> _Body:
    writer = parse_bounded(schema_files.canonical_form(schema))
    same = schema_files.canonical_form(schema) == schema_files.canonical_form(
        schema_files.current_schema(record)
    )
    return _Body(writer) if same else _Body(writer, _current(record))


@cache
def _current(record: str) -> Any:
    return parse_schema(_without_logical_types(schema_files.current_schema(record)))


@cache
def _known_writers() -> dict[bytes, tuple[str, Any]]:
    """Return each writer schema that needs no registry, by fingerprint: (record, schema)."""
    versions = [
        *schema_files.released_schemas().values(),
        {record: schema_files.current_schema(record) for record in schema_files.FILES},
    ]
    return {
        mark: (record, schema)
        for version in versions
        for record, schema in version.items()
        for mark in (
            schema_files.python_fingerprint_bytes(schema),
            schema_files.fingerprint_bytes(schema),
        )
    }


def _without_logical_types(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            key: _without_logical_types(part)
            for key, part in schema.items()
            if key != "logicalType"
        }
    return [_without_logical_types(part) for part in schema] if isinstance(schema, list) else schema


def _unshared(part: Any) -> Any:
    """Return a copy of a decoded value.

    Where fastavro fills in a default, all records share the schema's own map or list.
    """
    if isinstance(part, dict):
        return {key: _unshared(value) for key, value in part.items()}
    return [_unshared(value) for value in part] if isinstance(part, list) else part


def _describe(value: bytes, record: str) -> str:
    if not value:
        return "The value is empty."
    if value[:1] == _CONFLUENT or value[:2] == _SINGLE_OBJECT[: len(value)]:
        return f"The value is too short to be framed: {len(value)} bytes."
    if value.lstrip()[:1] in (b"{", b"["):
        hint = (
            " Send it with the header content-type: application/json, "
            "or set LEADSTREAM_JSON=accept."
            if record == "LeadChanged"
            else ""
        )
        return "The value looks like JSON, not Avro in either framing." + hint
    return f"The value starts with byte {value[0]:02x}, which is neither of the framings."


def _poison(reason: Reason, detail: str) -> Poison:
    return Poison(reason, "decode", detail)
