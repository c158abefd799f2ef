"""Lives of leads in tests, and the log that each CRM would have kept of them."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

MAPPING = """
[file]
time_zone = "Europe/Berlin"
[lead]
lead_id = "Id"
created_at = "Created"
status = "Status"
lead_score = "Score"
source = "Source"
[lead.numbers]
budget = "Budget"
[lead.categories]
topics = "Topics"
[history]
lead = "record"
field = "what"
old = "before"
new = "after"
at = { column = "when", format = "%d.%m.%Y %H:%M:%S" }
"""
# The columns that the logs track, and the one that they do not.
TRACKED = ("Status", "Score", "Budget", "Topics")
UNTRACKED = "Source"
FIELDS = {
    "Status": "status",
    "Score": "lead_score",
    "Budget": "budget",
    "Topics": "topics",
    "Source": "source",
}
NUMBERS = ("lead_score", "budget")
BERLIN = ZoneInfo("Europe/Berlin")

Texts = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class LeadLife:
    """The life of a lead: its texts at its creation, and each change (time in ms, column, text)."""

    lead_id: str
    created_at: int
    texts: Texts
    changes: tuple[tuple[int, str, str | None], ...]

    def logged(self) -> list[tuple[int, str, str | None, str | None]]:
        """Return what a CRM logs of tracked columns: time, column, old and new text."""
        now, found = dict(self.texts), []
        for at, column, text in self.changes:
            if now[column] != text and column in TRACKED:
                found.append((at, column, now[column], text))
            now[column] = text
        return found

    def today(self) -> dict[str, str | None]:
        """Return the texts after all changes."""
        return {**self.texts, **{column: text for _, column, text in self.changes}}

    def states(self) -> dict[int, dict[str, Any]]:
        """Return the true state of tracked fields at its creation and at each logged change."""
        moments = {self.created_at, *(at for at, *_ in self.logged())}
        found = {}
        for moment in sorted(moments):
            now = dict(self.texts)
            now.update({column: text for at, column, text in self.changes if at <= moment})
            found[moment] = {
                FIELDS[column]: _value(FIELDS[column], now[column]) for column in TRACKED
            }
        return found


def fields_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tracked fields of a LeadState, in the form of `LeadLife.states`."""
    return {
        "status": state.get("status"),
        "lead_score": state.get("lead_score"),
        "budget": state["numbers"].get("budget"),
        "topics": state["categories"].get("topics"),
    }


def _value(name: str, text: str | None) -> Any:
    return float(text) if text is not None and name in NUMBERS else text


def iso(at: int) -> str:
    """Return a time as the APIs of CRMs write it."""
    moment = datetime.fromtimestamp(at / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at % 1000:03}+0000"


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def write_leads(path: Path, lives: Iterable[LeadLife]) -> None:
    """Write the export of today's leads."""
    columns = list(FIELDS)
    write_csv(
        path,
        ["Id", "Created", *columns],
        ([life.lead_id, iso(life.created_at), *map(life.today().get, columns)] for life in lives),
    )


def salesforce_log(path: Path, lives: Iterable[LeadLife]) -> None:
    write_csv(
        path,
        ["LeadId", "CreatedDate", "Field", "DataType", "OldValue", "NewValue"],
        (
            [life.lead_id, iso(at), column, "Text", old, new]
            for life in lives
            for at, column, old, new in life.logged()
        ),
    )


def fields_log(path: Path, lives: Iterable[LeadLife]) -> None:
    """Write a log of one's own, with local times of whole seconds."""
    write_csv(
        path,
        ["record", "what", "before", "after", "when"],
        (
            [
                life.lead_id,
                column,
                old,
                new,
                datetime.fromtimestamp(at / 1000, BERLIN).strftime("%d.%m.%Y %H:%M:%S"),
            ]
            for life in lives
            for at, column, old, new in life.logged()
        ),
    )


def dynamics_log(path: Path, lives: Iterable[LeadLife]) -> None:
    """Write a page of the Web API, whose audit has the creation, too."""
    rows = []
    for life in lives:
        first = [(life.created_at, column, None, life.texts[column]) for column in TRACKED]
        for at, column, old, new in [*first, *life.logged()]:
            if old is None and new is None:
                continue
            change = {"logicalName": column.lower(), "oldValue": old, "newValue": new}
            rows.append(
                {
                    "_objectid_value": life.lead_id,
                    "createdon": iso(at),
                    "action": 2,
                    "changedata": json.dumps({"changedAttributes": [change]}),
                }
            )
    path.write_text(json.dumps({"value": rows}))


def hubspot_log(path: Path, lives: Iterable[LeadLife]) -> None:
    """Write contacts of the API, one in each line, newest version first."""
    lines = []
    for life in lives:
        first = [(life.created_at, column, None, life.texts[column]) for column in TRACKED]
        history: dict[str, list[dict[str, Any]]] = {}
        for at, column, _, new in [*first, *life.logged()]:
            history.setdefault(column, []).insert(0, {"value": new or "", "timestamp": iso(at)})
        properties = {"Id": life.lead_id, "Created": iso(life.created_at), **life.today()}
        contact = {"id": life.lead_id, "properties": properties, "propertiesWithHistory": history}
        lines.append(json.dumps(contact))
    path.write_text("\n".join(lines))


LOGS: dict[str, tuple[str, Callable[[Path, Iterable[LeadLife]], None]]] = {
    "salesforce": ("log.csv", salesforce_log),
    "fields": ("log.csv", fields_log),
    "dynamics": ("log.json", dynamics_log),
    "hubspot": ("log.jsonl", hubspot_log),
}
