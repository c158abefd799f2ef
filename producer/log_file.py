"""A reader of files that hold a log: CSV, JSON, or JSON with one object in each line."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from leadstream.errors import UserError
from producer.csv_file import find_shape, read_records
from producer.field_log import log_name
from schemas.foreign_values import parse_integer

# Longer lines are not parsed; a page of a CRM's API has some megabytes.
MAX_LINE_CHARACTERS = 64 * 2**20
# A file that is one JSON value is held in memory.
MAX_DOCUMENT_BYTES = 256 * 2**20
_JSON = (".json", ".jsonl", ".ndjson")
# The lists of rows in a page of an API: HubSpot's, the Web API's, Salesforce's.
_PAGES = ("results", "value", "records")


def read_objects(
    path: Path, needed: Sequence[Collection[str]], also: Collection[str] = ()
) -> Iterator[dict[str, Any] | None]:
    """Yield the rows of a file, by names in the form of `log_name`; None for one that is none.

    A CSV must have one name of each group of `needed`. Names of `also` help to find its header.
    Raises UserError if the file cannot be read.
    """
    if is_json(path):
        for value in read_json(path):
            yield _named(value) if isinstance(value, dict) else None
        return
    yield from _csv_rows(path, needed, also)


def is_json(path: Path) -> bool:
    """Return whether the name of a file says that it is JSON."""
    return path.suffix.lower() in _JSON


def read_json(path: Path) -> Iterator[Any]:
    """Yield the values of a file: a value in each line, or one document; pages are opened."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            first = file.readline(MAX_LINE_CHARACTERS)
            try:
                value = _loaded(first)
            except ValueError:
                yield from _document(path)
                return
            yield from _opened(value)
            while line := file.readline(MAX_LINE_CHARACTERS):
                if line.strip():
                    yield from _opened(_parsed(line))
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def _document(path: Path) -> Iterator[Any]:
    if path.stat().st_size > MAX_DOCUMENT_BYTES:
        raise UserError(
            f"{path}: is one JSON value of more than {MAX_DOCUMENT_BYTES // 2**20} MiB: write one "
            "object in each line, for example with `jq -c '.[]'`"
        )
    try:
        value = _loaded(path.read_text("utf-8-sig", errors="surrogateescape"))
    except ValueError:
        raise UserError(f"{path}: is neither JSON nor JSON lines") from None
    yield from _opened(value)


def _loaded(text: str) -> Any:
    return json.loads(text, parse_int=parse_integer)


def _parsed(line: str) -> Any:
    try:
        return _loaded(line)
    except ValueError:
        return None


def _opened(value: Any) -> Iterator[Any]:
    """Yield the rows of a page, or the value itself."""
    if isinstance(value, dict):
        value = next((value[name] for name in _PAGES if isinstance(value.get(name), list)), value)
    if isinstance(value, list):
        yield from value
    else:
        yield value


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    return {log_name(name): value for name, value in row.items()}


def _csv_rows(
    path: Path, needed: Sequence[Collection[str]], also: Collection[str]
) -> Iterator[dict[str, Any] | None]:
    wanted = {name for group in needed for name in group} | set(also)
    shape = find_shape(path, lambda names: len(wanted & {log_name(name) for name in names}))
    names = [log_name(name) for name in shape.header]
    for group in needed:
        if not set(group) & set(names):
            raise UserError(
                f"{path}: has no column {' or '.join(map(repr, group))}; `leadstream history "
                "import --help` lists the formats"
            )
    try:
        for _, cells in read_records(path, shape):
            yield None if isinstance(cells, str) else dict(zip(names, cells, strict=False))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeError:
        raise UserError(f"{path}: is not {shape.encoding}") from None
