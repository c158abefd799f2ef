"""The boundary of logs that `history import` reads: rows of which a part or two may be odd."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

from producer.field_log import (
    HUBSPOT,
    SALESFORCE,
    Entry,
    FieldChange,
    dynamics_row,
    hubspot_row,
    log_name,
    read_row,
)
from producer.log_import import past_change
from producer.mapping import parse_mapping
from producer.past_states import PlacementCounts, TodaysLead, TrackedSince, past_states
from producer.todays_leads import mapped_fields
from schemas.codec import Writer
from schemas.crm_description import TimeFormat
from tests.faults.odd_values import CANARY, replace_part

_MAPPING = parse_mapping(
    "m.toml",
    {
        "lead": {
            "lead_id": "Id",
            "created_at": "Created",
            "status": "status",
            "numbers": {"gpa": "gpa"},
        }
    },
)
_FIELDS = mapped_fields(_MAPPING)
_AT = "2025-01-31T00:00:00Z"
_VERSIONS = [{"value": CANARY, "timestamp": _AT}, {"value": "1.5", "timestamp": 1_738_281_600_000}]
_CHANGE = {"logicalName": "status", "oldValue": "a", "newValue": CANARY}
_TIMES = TimeFormat()
ReadOdd = Callable[[dict[str, Any]], Iterator[Entry]]
_ROWS: list[tuple[ReadOdd, dict[str, Any]]] = [
    (
        partial(read_row, columns=SALESFORCE, times=_TIMES),
        {"LeadId": "1", "Field": "gpa", "OldValue": "1", "NewValue": "2", "CreatedDate": _AT},
    ),
    (
        partial(read_row, columns=HUBSPOT, times=_TIMES),
        {"id": "1", "property": "status", "value": CANARY, "timestamp": _AT},
    ),
    (
        partial(hubspot_row, times=_TIMES),
        {"id": "1", "propertiesWithHistory": {"status": _VERSIONS, "gpa": _VERSIONS}},
    ),
    (
        partial(dynamics_row, times=_TIMES),
        {"objectid": "1", "createdon": _AT, "changedata": {"changedAttributes": [_CHANGE]}},
    ),
]


def log_boundary(rng: Random) -> str:
    """Read a row of a log, and reconstruct the states of its lead."""
    read, row = rng.choice(_ROWS)
    odd: Any = row
    for _ in range(rng.randrange(3)):
        odd = replace_part(rng, odd)
    if not isinstance(odd, dict):
        return "a reason"
    if "changedata" in odd and rng.random() < 0.5:
        odd = {**odd, "changedata": json.dumps(odd["changedata"])}
    entries = list(read({log_name(name): value for name, value in odd.items()}))
    changes = [each for each in entries if isinstance(each, FieldChange)]
    lead = TodaysLead("1", 1_700_000_000_000, {"status": "b", "gpa": "2"})
    since = TrackedSince(dict.fromkeys(("status", "gpa"), 0), all(c.has_old for c in changes))
    for at, state in past_states(lead, changes, _FIELDS, since, PlacementCounts()):
        Writer("LeadChanged").encode(past_change("1", at, state))
    return "read" if changes else "a reason"
