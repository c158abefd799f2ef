"""A reader of CSV as programs and people write it.

It finds the encoding, the delimiter and the header that a person would find: by a byte order mark,
by a line `sep=;`, and by the columns that the caller looks for.
"""

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from leadstream.errors import UserError, error_text
from leadstream.text_forms import column_name

DELIMITERS = (",", ";", "\t", "|")
DEFAULT_ENCODING = "utf-8"
NO_NAMES = "its first line has values in place of names: write the names of the columns above it"
NOT_CLOSED = "has a quote that is not closed"
# A header stands in the first records, below titles and empty lines.
_MAX_TITLE_RECORDS = 40
_HEAD_BYTES = 256 * 1024
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_OTHER_KINDS = (
    (b"PAR1", "is Parquet; give it a name that ends in .parquet, and train with --parquet"),
    (b"PK\x03\x04", "is a workbook or a ZIP file; save the sheet as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "is an old workbook; save the sheet as CSV in UTF-8"),
    (b"\x1f\x8b", "is compressed by gzip; unpack it first"),
    (b"%PDF", "is a PDF; export the leads as CSV in UTF-8"),
    (b"{\\rtf", "is a text document; export the leads as CSV in UTF-8"),
)
# A year may be the name of a column.
_VALUE = re.compile(r"(?!(?:19|20)\d\d$)(?:[-+]?[\d.,]*\d|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*)")
_HTML = (b"<html", b"<!doctype", b"<table", b"<?xml")

# Returns how many of the looked-for columns a header has.
Score = Callable[[Sequence[str]], int]


@dataclass(frozen=True, slots=True)
class CsvShape:
    """Form of a CSV file: its header is the record that begins on line `header_line`."""

    encoding: str
    delimiter: str
    header: tuple[str, ...]
    header_line: int
    score: int


class _Lines:
    """The lines of a file with their numbers; a record may give back all but its first."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._ahead = file, deque[str]()
        self._taken: list[str] = []
        self.next_number = 1

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._ahead.popleft() if self._ahead else next(self._file)
        self._taken.append(line)
        return line

    def several(self) -> bool:
        return len(self._taken) > 1

    def well_quoted(self, delimiter: str) -> bool:
        try:
            return len(list(csv.reader(self._taken, delimiter=delimiter, strict=True))) == 1
        except csv.Error:
            return False

    def keep(self) -> None:
        self.next_number += len(self._taken)
        self._taken.clear()

    def give_back(self) -> None:
        self._ahead.extendleft(reversed(self._taken[1:]))
        del self._taken[1:]
        self.keep()


def find_shape(
    path: Path, score: Score, *, encoding: str | None = None, delimiter: str | None = None
) -> CsvShape:
    """Return how a file is written; what is given is not looked for.

    The header is the first record with the most looked-for columns. Raises UserError if the file
    cannot be read, is no text or is empty; LookupError for an unknown encoding.
    """
    encoding = _encoding(path, encoding)
    lines = _first_lines(path, encoding)
    if not any(line.strip() for line in lines):
        raise UserError(f"{path}: is empty")
    named, first = _named_delimiter(lines[0])
    if named and delimiter is None:
        delimiter = named
    best: CsvShape | None = None
    for sign in [delimiter] if delimiter else DELIMITERS:
        for number, record in _records(lines[first:], sign, first + 1):
            found = CsvShape(encoding, sign, record, number, score(record))
            if best is None or found.score > best.score:
                best = found
    if best is None:
        raise UserError(f"{path}: has no header")
    return best


def read_records(path: Path, shape: CsvShape) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the first line of each record after the header, with its cells or with its fault.

    Empty records are left out. A record with more lines than its header allows costs only its first
    line: a quote that nobody closed swallows nothing. Bytes that are no text become surrogates.
    """
    with path.open(encoding=shape.encoding, errors="surrogateescape", newline="") as file:
        lines = _Lines(file)
        while lines.next_number < shape.header_line:
            next(lines)
            lines.keep()
        reader = csv.reader(lines, delimiter=shape.delimiter)
        next(reader)
        lines.keep()
        while True:
            number = lines.next_number
            try:
                cells: list[str] | str = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                cells = f"is not CSV: {error_text(error)}"
            if isinstance(cells, list):
                cells = _fitting(cells, len(shape.header), several=lines.several())
            if (
                lines.several()
                and isinstance(cells, list)
                and not lines.well_quoted(shape.delimiter)
            ):
                cells = NOT_CLOSED
            if lines.several() and isinstance(cells, str):
                lines.give_back()
            else:
                lines.keep()
            if isinstance(cells, str) or any(cell.strip() for cell in cells):
                yield number, cells


def _fitting(cells: list[str], width: int, *, several: bool) -> list[str] | str:
    """Return the cells of a record without empty ones behind the header, or the fault."""
    if len(cells) > width and not any(cell.strip() for cell in cells[width:]):
        return cells[:width]
    if len(cells) > width or (several and len(cells) < width):
        return NOT_CLOSED if several else f"has {len(cells)} fields, the header has {width}"
    return cells


def holds_values(header: Sequence[str]) -> bool:
    """Return whether a header has a number or a date in place of a name."""
    return any(_VALUE.fullmatch(name) for name in header)


def _encoding(path: Path, named: str | None) -> str:
    """Return the encoding of a file: that of its byte order mark, the named one, or a guess."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    for magic, what in _OTHER_KINDS:
        if head.startswith(magic):
            raise UserError(f"{path}: {what}")
    if head.lstrip()[:9].lower().startswith(_HTML):
        raise UserError(f"{path}: is a web page or XML; export the leads as CSV in UTF-8")
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if named is not None:
        return named
    # In UTF-16, texts of Latin letters have a zero byte in every second place.
    even, odd = head[0:2000:2].count(0), head[1:2000:2].count(0)
    if 2 * max(even, odd) > min(len(head), 2000) // 2:
        return "utf-16-be" if even > odd else "utf-16-le"
    return DEFAULT_ENCODING


def _first_lines(path: Path, encoding: str) -> list[str]:
    lines: list[str] = []
    with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
        # Titles and header may hold line breaks in quotes.
        for line in file:
            lines.append(line)
            if len(lines) >= 4 * _MAX_TITLE_RECORDS or sum(map(len, lines)) > _HEAD_BYTES:
                break
    return lines


def _named_delimiter(line: str) -> tuple[str | None, int]:
    """Return the delimiter of a line such as `sep=;`, and how many lines are before the records."""
    text = line.lstrip("\ufeff").rstrip("\r\n").strip('"')
    if text[:4].lower() == "sep=" and len(text) == len("sep=;"):
        return text[-1], 1
    return None, 0


def _records(
    lines: Sequence[str], delimiter: str, first: int
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the first line and the names of each record that can be a header."""
    reader = csv.reader(iter(lines), delimiter=delimiter)
    for _ in range(_MAX_TITLE_RECORDS):
        number = first + reader.line_num
        try:
            record = next(reader)
        except (StopIteration, csv.Error):
            return
        names = tuple(column_name(name.lstrip("\ufeff")) for name in record)
        if any(names):
            yield number, names
