"""Cells are read by stated rules: no sign changes a number unseen, and no id is rounded."""

import random
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from leadstream.errors import SettingsError
from producer.mapping import parse_mapping
from producer.time_guess import guess_formats
from schemas.number_format import NumberFormat

ENGLISH, GERMAN, FRENCH = NumberFormat(".", ","), NumberFormat(",", "."), NumberFormat(",", " ")
MISREAD = object()


def _or_misread(read: Callable[[str], object], text: str) -> object:
    try:
        return read(text)
    except ValueError:
        return MISREAD


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (ENGLISH, "1,234.50", 1234.5),
        (ENGLISH, "$1,234,567.5", 1234567.5),
        (ENGLISH, "-$1,234", -1234.0),
        (ENGLISH, "$-5", -5.0),
        (ENGLISH, "US$ 5", 5.0),
        (ENGLISH, "USD 1,200.00", 1200.0),
        (ENGLISH, "(1,234.50)", -1234.5),
        (ENGLISH, "45 %", 45.0),
        (ENGLISH, "45%", 45.0),
        (ENGLISH, "\u22125", -5.0),
        (ENGLISH, "\uff11\uff12", 12.0),
        (ENGLISH, "1e3", 1000.0),
        (ENGLISH, ".5", 0.5),
        (GERMAN, "1.234,50 \u20ac", 1234.5),
        (GERMAN, "3,5", 3.5),
        (FRENCH, "1\u202f234\u00a0567,5 \u20ac", 1234567.5),
        (NumberFormat(".", "'"), "CHF 1\u2019234.5", 1234.5),
        (NumberFormat(units=frozenset(["min"])), "12 min", 12.0),
        (ENGLISH, "3,5", MISREAD),
        (ENGLISH, "1,23,456", MISREAD),
        (ENGLISH, "1234,567", MISREAD),
        (ENGLISH, "1,2345", MISREAD),
        (ENGLISH, "1.234,5", MISREAD),
        (GERMAN, "3.5", MISREAD),
        (GERMAN, "1.234.5", MISREAD),
        (NumberFormat(), "1,234", MISREAD),
        (NumberFormat(), "1 234", MISREAD),
        (ENGLISH, "12 min", MISREAD),
        (ENGLISH, "--5", MISREAD),
        (ENGLISH, "(-5)", MISREAD),
        (ENGLISH, "$", MISREAD),
        (ENGLISH, "%", MISREAD),
        (ENGLISH, "1 2", MISREAD),
        (ENGLISH, "1/2", MISREAD),
        (ENGLISH, "inf", MISREAD),
        (ENGLISH, "0x10", MISREAD),
        (ENGLISH, "1_000", MISREAD),
        (ENGLISH, "e5", MISREAD),
    ],
)
def test_a_number_is_read_as_it_is_meant_or_not_at_all(
    form: NumberFormat, text: str, expected: object
) -> None:
    assert _or_misread(form.number, text) == expected


def test_a_number_that_was_written_by_the_rule_is_read_back() -> None:
    random_of = random.Random(7)
    for _ in range(500):
        decimal, thousands = random_of.choice([(".", ","), (",", "."), (",", " "), (".", "'")])
        number = round(random_of.uniform(-1e9, 1e9), random_of.randrange(4))
        text = f"{number:,}".replace(",", "T").replace(".", decimal).replace("T", thousands)
        before, after = random_of.choice([("", ""), ("", " %"), ("\u20ac", ""), ("", " EUR")])
        assert NumberFormat(decimal, thousands).number(f"{before}{text}{after}") == number


def _field(spec: str, name: str = "created_at") -> Callable[[str], object]:
    lead = {"lead_id": '"id"', "created_at": '"created"', name: spec}
    decided = lead.pop("decided_at", '"d"')
    outcome = f'[outcome]\ncolumn = "won"\ntrue = ["1"]\nfalse = ["0"]\ndecided_at = {decided}\n'
    fields = "\n".join(f"{key} = {value}" for key, value in lead.items())
    text = f'[file]\ntime_zone = "Europe/Berlin"\n[lead]\n{fields}\n{outcome}'
    mapping = parse_mapping("m", tomllib.loads(text))
    field = {field.key.rpartition(".")[2]: field for field in mapping.every_field()}[name]
    return lambda text: field.read({field.column or "": text}, 2)


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ('format = "excel"', "45000.5", "2023-03-15T12:00"),
        ('format = "excel"', "45110", "2023-07-03T00:00"),  # in summer
        ('format = "excel_1904"', "43648", "2023-07-03T00:00"),
        ('base = "1899-12-30", step_ms = 86400000', "45110", "2023-07-03T00:00"),
        (
            'format = "%d/%m/%Y %I:%M %p"',
            "15/04/2021 12:03 AM",
            "2021-04-15T00:03",
        ),
        (
            'format = "%d/%m/%Y %I:%M %p"',
            "15/04/2021 12:03 p.m.",
            "2021-04-15T12:03",
        ),
        (
            'format = "%d. %B %Y", locale = "de"',
            "3. Mrz 2021",
            "2021-03-03T00:00",
        ),
        ('format = "%d %b %Y", locale = "fr"', "3 août 2021", "2021-08-03T00:00"),
        (
            'format = "%a %d %b %Y", locale = "es"',
            "mar 2 mar 2021",
            "2021-03-02T00:00",
        ),
        ('format = "%B %d, %Y"', "April 15th, 2021", "2021-04-15T00:00"),
        (
            'format = ["%d.%m.%Y %H:%M", "%d.%m.%Y"]',
            "15.04.2021",
            "2021-04-15T00:00",
        ),
        ('format = "iso"', "2021-04-15 10:00:00 +0200", "2021-04-15T10:00"),
        ('format = ["%d.%m.%Y", "iso"]', "2021-04-15T08:00:00Z", "2021-04-15T10:00"),
        ('format = ["iso", "epoch_s", "%d.%m.%Y"]', "1618473600", "2021-04-15T10:00"),
        ('format = ["iso", "excel"]', "soon", None),
        ('format = "iso"', "2021-04-15 08:00:00 UTC", "2021-04-15T10:00"),
        ('format = "%d/%m/%Y"', "04/15/2021", None),
        ('format = "%d %b %Y"', "3 Okt 2021", None),
        ('format = "excel"', "1e300", None),
    ],
)
def test_a_time_is_read_on_the_clock_of_the_file(
    options: str, text: str, expected: str | None
) -> None:
    found = _or_misread(_field(f'{{ column = "c", {options} }}'), text)
    if expected is None:
        assert found is MISREAD
    else:
        zone = ZoneInfo("Europe/Berlin")
        moment = datetime.fromisoformat(expected).replace(tzinfo=zone)
        assert found == int(moment.timestamp() * 1000)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ('"c"', "2025-03-30"),  # a day of 23 hours
        ('"c"', "2025-03-30 00:00:00"),
        ('{ column = "c", format = "%d.%m.%Y" }', "30.03.2025"),
        ('{ column = "c", format = "excel" }', "45746"),
    ],
)
def test_a_decision_on_a_date_is_the_end_of_that_day(spec: str, text: str) -> None:
    next_day = datetime(2025, 3, 30, 22, tzinfo=UTC)
    assert _field(spec, "decided_at")(text) == int(next_day.timestamp() * 1000) - 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("00123", "00123"),
        ("0015g00000ABCDe", "0015g00000ABCDe"),
        ("12345e67", "12345e67"),
        ("1.5", "1.5"),
        ("12345.0", MISREAD),
        ("1.23457E+11", MISREAD),
        ("1,23457E+11", MISREAD),
        ("1e+21", MISREAD),
        ("123456789012345000", MISREAD),
        ("123456789012345678", "123456789012345678"),
        ("nan", MISREAD),
        ("#REF!", MISREAD),
    ],
)
def test_an_id_is_kept_exactly_or_refused(text: str, expected: object) -> None:
    assert _or_misread(_field('"c"', "lead_id"), text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12345.0", "12345"),
        ("12345", "12345"),
        ("9007199254740993", "9007199254740993"),
        ("9007199254740994.0", MISREAD),
        ("1e+15", MISREAD),
        ("A1", MISREAD),
    ],
)
def test_an_id_that_was_a_float_loses_its_fraction_on_request_only(
    text: str, expected: object
) -> None:
    assert _or_misread(_field('{ column = "c", format = "integer" }', "lead_id"), text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9007199254740993", 9007199254740993),
        ("9223372036854775807", 9223372036854775807),
        ("9223372036854775808", MISREAD),
        ("9007199254740994.0", MISREAD),
        ("1e18", MISREAD),
        ("3.0", 3),
        ("3.5", MISREAD),
        ("9" * 5000, MISREAD),
    ],
)
def test_a_version_above_2_to_the_53_is_exact_or_refused(text: str, expected: object) -> None:
    assert _or_misread(_field('"c"', "lead_version"), text) == expected


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ('{ column = "c", format = "%d.%m.%Y %Z" }', "%Z depends on the machine"),
        ('{ column = "c", format = "%d.%m." }', "has no year"),
        ('{ column = "c", format = "%Q" }', "neither a known name nor a format"),
        ('{ column = "c", format = "%d %d %Y" }', "repeats a part"),
        ('{ column = "c", format = [] }', "must be text or a list"),
        ('{ column = "c", format = "%d %b %Y", locale = "klingon" }', "is not a locale"),
        ('{ column = "c", unit = "d" }', "unit: is for numbers only"),
        ('{ line = "x" }', "line: is for lead_id only"),
    ],
)
def test_a_wrong_option_of_a_time_is_one_sentence(spec: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        _field(spec)


def test_the_format_of_times_is_guessed_from_cells_that_hold_them() -> None:
    moments = [datetime(2024, 1, 1) + timedelta(hours=37 * i) for i in range(300)]  # noqa: DTZ001
    for form in (
        *("%d/%m/%Y %I:%M %p", "%m/%d/%Y", "%d.%m.%Y %H:%M", "%B %d, %Y", "%d-%b-%y", "%Y%m%d"),
        *("%A, %d %B %Y", "%Y/%m/%d %H:%M:%S", "%a %b %d %Y %H:%M:%S"),
    ):
        cells = [moment.strftime(form) for moment in moments]
        [guess] = guess_formats(cells)
        assert [datetime.strptime(cell, guess.format) for cell in cells] == [  # noqa: DTZ007
            datetime.strptime(cell, form)  # noqa: DTZ007
            for cell in cells
        ]
    assert [g.format for g in guess_formats(["03/04/2021"])] == ["%d/%m/%Y", "%m/%d/%Y"]
    assert [(g.format, g.locale) for g in guess_formats(["15. März 2021"])] == [("%d. %b %Y", "de")]
    assert guess_formats(["2021-04-15T10:00:00Z"])[0].format == "iso"
    assert guess_formats(["45000.5", "45001"])[0].format == "excel"
    assert guess_formats(["never"]) == []
