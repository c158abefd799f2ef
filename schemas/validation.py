"""The check of a record against its schema, before fastavro encodes it.

fastavro itself would write 1.5 as a long, and any text as the boolean true.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fastavro import parse_schema

Check = Callable[[Any], None]

_ABSENT = object()
_SCALARS: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "long": (int,),
    "float": (float, int),
    "double": (float, int),
    "string": (str,),
    "bytes": (bytes,),
}


class RecordValidationError(Exception):
    """A difference between a record and its schema: where and how, never the value."""

    def __init__(self, what: str, path: str = "") -> None:
        super().__init__(f"{path or 'it'} {what}")
        self.what = what
        self.path = path


def compile_validator(schema: Any) -> Check:
    """Build a function that checks a record of basic Python values against `schema` (JSON data).

    It raises RecordValidationError if the record does not fit. fastavro checks the rest: numbers
    beyond 64 bits (OverflowError) and lone surrogates (UnicodeEncodeError).
    """
    named: dict[str, Any] = {}
    return _compile(parse_schema(schema, named), named)


def lone_surrogate(part: Any, path: str = "") -> RecordValidationError | None:
    """Find the text within `part` that is not Unicode; return None if there is none."""
    if isinstance(part, str):
        try:
            part.encode()
        except UnicodeEncodeError as error:
            return RecordValidationError(
                f"holds a lone surrogate at character {error.start}, which is not Unicode text",
                path,
            )
        return None
    items: list[tuple[str, Any]] = []
    if isinstance(part, Mapping):
        items = [("(a name)", key) for key in part] + [
            (str(key), item) for key, item in part.items()
        ]
    elif isinstance(part, list | tuple):
        items = [(str(index), item) for index, item in enumerate(part)]
    found = (lone_surrogate(item, _join(path, key)) for key, item in items)
    return next(filter(None, found), None)


def _compile(schema: Any, named: dict[str, Any]) -> Check:
    if isinstance(schema, list):
        return _union(
            [_compile(branch, named) for branch in schema if branch != "null"],
            nullable="null" in schema,
        )
    kind = schema["type"] if isinstance(schema, dict) else schema
    if kind in named:
        return _compile(named[kind], named)
    if kind == "record":
        return _record(schema, named)
    if kind == "array":
        return _array(_compile(schema["items"], named))
    if kind == "map":
        return _map(_compile(schema["values"], named))
    if kind == "enum":
        return _enum(frozenset(schema["symbols"]))
    return _int if kind == "int" else _scalar(kind)


def _record(schema: Any, named: dict[str, Any]) -> Check:
    fields = [
        (
            field["name"],
            _exact_type(field["type"]),
            _compile(field["type"], named),
            "default" in field,
        )
        for field in schema["fields"]
    ]
    names = {name for name, *_ in fields}

    def check(value: Any) -> None:
        if not isinstance(value, Mapping):
            raise _wrong(value, "a record")
        present = 0
        for name, exact, validate, has_default in fields:
            item = value.get(name, _ABSENT)
            if item is _ABSENT:
                if not has_default:
                    raise RecordValidationError("is missing", name)
                continue
            present += 1
            if type(item) is not exact:
                _validate_part(validate, name, item)
        if present != len(value):
            raise RecordValidationError(
                "is not a field of the schema", ", ".join(sorted(map(str, value.keys() - names)))
            )

    return check


def _exact_type(schema: Any) -> type | None:
    """Return the Python type whose every value fits, or None."""
    kind = schema.get("type") if isinstance(schema, dict) else schema
    return _SCALARS[kind][0] if isinstance(kind, str) and kind in _SCALARS else None


def _union(validators: list[Check], *, nullable: bool) -> Check:
    def check(value: Any) -> None:
        if value is None and nullable:
            return
        failure = _wrong(value, "null")
        for validate in validators:
            try:
                validate(value)
            except RecordValidationError as error:
                failure = error
            else:
                return
        raise failure

    return check


def _array(validate: Check) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, list | tuple):
            raise _wrong(value, "an array")
        for index, item in enumerate(value):
            _validate_part(validate, str(index), item)

    return check


def _map(validate: Check) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, dict):
            raise _wrong(value, "a map")
        for key, item in value.items():
            if not isinstance(key, str):
                raise RecordValidationError("has a name that is not text")
            _validate_part(validate, key, item)

    return check


def _enum(symbols: frozenset[str]) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, str) or value not in symbols:
            raise RecordValidationError(f"is none of {', '.join(sorted(symbols))}")

    return check


def _scalar(kind: str) -> Check:
    types = _SCALARS[kind]

    def check(value: Any) -> None:
        # In Python a bool is an int, in Avro it is not.
        if not isinstance(value, types) or (isinstance(value, bool) and kind != "boolean"):
            raise _wrong(value, f"a {kind}")

    return check


def _int(value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(value, "an int")
    if not -(2**31) <= value < 2**31:
        raise RecordValidationError("does not fit 32 bits")


def _validate_part(validate: Check, name: str, part: Any) -> None:
    try:
        validate(part)
    except RecordValidationError as error:
        raise RecordValidationError(error.what, _join(name, error.path)) from None


def _wrong(value: Any, wanted: str) -> RecordValidationError:
    return RecordValidationError(f"is of type {type(value).__name__}, not {wanted}")


def _join(*parts: str) -> str:
    return ".".join(filter(None, parts))
