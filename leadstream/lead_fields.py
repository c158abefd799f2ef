"""The fields of a lead's state and the limits of a lead change: one table for every room.

A new field needs a row in `LEAD_FIELDS`, a field in `schemas/lead_changed.avsc`, and a migration in
`producer/migrations` that adds its column to `leadstream_state`. The query of the consumer, mapping
files, the translation of foreign events and the demo's CRM read this table. Models ignore a field
until `features/definitions.py` has a feature of it.
"""

from dataclasses import dataclass
from enum import StrEnum

# Limits of a change on the wire: characters of an id, bytes of a value.
MAX_ID_CHARACTERS = 256
MAX_CHANGE_BYTES = 262_144
# Times that a calendar can name, in milliseconds UTC: 1970-01-01 up to, not including, 10000-01-01.
MIN_TIME_MS, END_TIME_MS = 0, 253_402_300_800_000
# Limits of what features take as valid.
MAX_CATEGORY_CHARACTERS = 256
MAX_NUMBER = 1e15
# Limits of integers on the wire, as powers of two: from -limit up to, not including, limit.
INT_LIMIT, LONG_LIMIT = 2**31, 2**63


class FieldKind(StrEnum):
    """The type of a field, on the wire and in a CRM."""

    TIME = "time"  # milliseconds since 1970, UTC
    DOUBLE = "double"
    INT = "int"  # 32 bits
    STRING = "string"
    DOUBLE_MAP = "map of doubles"
    STRING_MAP = "map of strings"


@dataclass(frozen=True, slots=True)
class LeadField:
    """One field of LeadState.

    `low` and `high` bound the values that features take as valid, both included: of a time
    milliseconds UTC, of a string its characters. `column` is the field's column in the CRM's table
    `people`; with a `name_table` it holds the id of a row of that table, and the field is the row's
    name. Fields with `column` None come only with events, never from Postgres. `optional` fields
    may be null on the wire.
    """

    name: str
    kind: FieldKind
    low: float
    high: float
    description: str
    column: str | None
    name_table: str | None = None
    optional: bool = True


def _string(name: str, description: str) -> LeadField:
    return LeadField(name, FieldKind.STRING, 1, MAX_CATEGORY_CHARACTERS, description, column=name)


LEAD_FIELDS = (
    LeadField(
        "created_at",
        FieldKind.TIME,
        MIN_TIME_MS,
        END_TIME_MS - 1,
        "when the lead was created; the row fails without it",
        column="created_at",
        optional=False,
    ),
    LeadField(
        "lead_score",
        FieldKind.DOUBLE,
        0,
        MAX_NUMBER,
        "the CRM's own score, on its own scale",
        column="lead_score",
    ),
    LeadField(
        "engagement_score",
        FieldKind.DOUBLE,
        0,
        100,
        "how engaged the lead is, in per cent",
        column="engagement_score",
    ),
    LeadField(
        "touchpoint_count",
        FieldKind.INT,
        0,
        1e6,
        "contacts with the lead so far",
        column="touchpoint_count",
    ),
    _string("lifecycle_state", "where the lead stands in the CRM's cycle"),
    _string("status", "the CRM's status of the lead"),
    _string("source", "where the enquiry came from"),
    LeadField(
        "programme_name",
        FieldKind.STRING,
        1,
        MAX_CATEGORY_CHARACTERS,
        "the programme enquired about",
        column="programme_id",
        name_table="programmes",
    ),
    LeadField(
        "campus_name",
        FieldKind.STRING,
        1,
        MAX_CATEGORY_CHARACTERS,
        "the campus enquired about",
        column="campus_id",
        name_table="campuses",
    ),
    LeadField(
        "numbers",
        FieldKind.DOUBLE_MAP,
        -MAX_NUMBER,
        MAX_NUMBER,
        "the CRM's own numbers, by name",
        column=None,
        optional=False,
    ),
    LeadField(
        "categories",
        FieldKind.STRING_MAP,
        1,
        MAX_CATEGORY_CHARACTERS,
        "the CRM's own categories, by name",
        column=None,
        optional=False,
    ),
)

MAPS = (FieldKind.DOUBLE_MAP, FieldKind.STRING_MAP)
STATE_FIELDS = tuple(field.name for field in LEAD_FIELDS)
# The fields that a row of the CRM can have: all but the maps.
CRM_FIELDS = tuple(field for field in LEAD_FIELDS if field.kind not in MAPS)


def fields_of_kind(*kinds: FieldKind) -> frozenset[str]:
    """Return the names of the fields of these kinds."""
    return frozenset(field.name for field in LEAD_FIELDS if field.kind in kinds)
