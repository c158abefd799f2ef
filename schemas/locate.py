"""The place where an Avro body stops being what its schema says.

It helps a person who searches for the fault in the bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_FIXED_BYTES = {"float": 4, "double": 8}
_VARINT_BYTES = 10


@dataclass(frozen=True, slots=True)
class DecodeFailure:
    """The first byte that cannot be valid: its offset in the value, its field, and why."""

    offset: int
    field: str
    why: str


class _Stop(Exception):
    def __init__(self, offset: int, why: str) -> None:
        super().__init__(why)
        self.offset = offset
        self.why = why


def first_failure(value: bytes, start: int, schema: Any) -> DecodeFailure | None:
    """Walk the body that begins at `start` by its parsed writer schema, and return its failure.

    Return None if it reads to the last byte. A wrong byte early in a value often reads well and
    only misleads: then the failure is where that shows.
    """
    walk = _Walk(value, start, dict(_named(schema)))
    try:
        walk.read(schema, "")
    except _Stop as stop:
        return DecodeFailure(stop.offset, walk.field or "the record", stop.why)
    if walk.at < len(value):
        return DecodeFailure(
            walk.at,
            "after the last field",
            f"the record ends, and bytes follow: {len(value) - walk.at}",
        )
    return None


class _Walk:
    """A reader of positions only.

    `at` is the next byte, `field` the dotted path of what is being read.
    """

    def __init__(self, value: bytes, at: int, named: dict[str, Any]) -> None:
        self.at = at
        self.field = ""
        self._value = value
        self._named = named

    def read(self, schema: Any, path: str) -> None:
        if isinstance(schema, list):
            self.field = path
            self.read(schema[self._index(len(schema), "the union has no branch")], path)
            return
        kind = schema["type"] if isinstance(schema, dict) else schema
        if kind in self._named and not isinstance(schema, dict):
            self.read(self._named[kind], path)
        elif kind == "record":
            for field in schema["fields"]:
                self.read(field["type"], f"{path}.{field['name']}" if path else field["name"])
        elif kind in ("array", "map"):
            self._blocks(kind, schema, path)
        elif isinstance(kind, dict | list):
            self.read(kind, path)
        else:
            self.field = path
            self._scalar(kind, schema)

    def _scalar(self, kind: str, schema: Any) -> None:
        if kind in ("int", "long"):
            self._long()
        elif kind == "boolean":
            self._take(1)
        elif kind in _FIXED_BYTES:
            self._take(_FIXED_BYTES[kind])
        elif kind == "enum":
            self._index(len(schema["symbols"]), "the schema has no symbol")
        elif kind == "fixed":
            self._take(schema["size"])
        elif kind in ("bytes", "string"):
            self._text(decodes=kind == "string")

    def _text(self, *, decodes: bool) -> None:
        began = self.at
        length = self._long()
        if length < 0:
            raise _Stop(began, f"a length of {length} is below zero")
        start = self.at
        if start + length > len(self._value):
            left = len(self._value) - start
            raise _Stop(began, f"a length of {length} bytes, but only {left} are left")
        self.at += length
        if decodes:
            try:
                self._value[start : self.at].decode()
            except UnicodeDecodeError as error:
                raise _Stop(start + error.start, "the text is not UTF-8") from None

    def _blocks(self, kind: str, schema: Any, path: str) -> None:
        while True:
            self.field = path
            count = self._long()
            if count == 0:
                return
            if count < 0:
                self._long()
            for number in range(abs(count)):
                self.field = f"{path}[{number}]"
                if kind == "map":
                    self._text(decodes=True)
                self.read(schema["items" if kind == "array" else "values"], self.field)

    def _index(self, size: int, why: str) -> int:
        began = self.at
        number = self._long()
        if not 0 <= number < size:
            raise _Stop(began, f"{why} {number}, only 0 to {size - 1}")
        return number

    def _long(self) -> int:
        began, number = self.at, 0
        for byte in range(_VARINT_BYTES):
            bits = self._take(1)[0]
            number |= (bits & 0x7F) << (7 * byte)
            if bits < 0x80:
                return (number >> 1) ^ -(number & 1)
        raise _Stop(began, f"a number of more than {_VARINT_BYTES} bytes")

    def _take(self, size: int) -> bytes:
        if self.at + size > len(self._value):
            raise _Stop(len(self._value), "the value ends here")
        self.at += size
        return self._value[self.at - size : self.at]


def _named(schema: Any) -> Iterator[tuple[str, Any]]:
    """Yield every type that the schema defines, with its full name."""
    if isinstance(schema, list):
        for branch in schema:
            yield from _named(branch)
    elif isinstance(schema, dict):
        if schema["type"] in ("record", "enum", "fixed"):
            yield schema["name"], schema
        for field in schema.get("fields", ()):
            yield from _named(field["type"])
        for part in ("items", "values"):
            if part in schema:
                yield from _named(schema[part])
