"""Change events of Salesforce as LeadChanged.

Redpanda Connect (`salesforce_cdc`) and Confluent's Salesforce CDC sources write them to Kafka: in
JSON, where a value may be in the form of Avro's unions, {"string": "Web"}, or in Avro. A change
names one or more records. Only a creation and an undeletion bring all fields. An update brings
those that changed, and a gap event brings none: such a change has no state, and the consumer reads
it from a database.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leadstream.lead_fields import MAX_ID_CHARACTERS
from schemas.crm_description import LEADSTREAM, CrmDescription
from schemas.foreign_formats import (
    ChangeOccasion,
    ConversionOptions,
    ForeignMessage,
    changed,
    changed_without_state,
    deletion,
    occasion_of_key,
    parsed,
    required,
)
from schemas.foreign_rows import basic_row, event_time, is_gone, watched_columns
from schemas.foreign_values import invalid

_HEADER = "ChangeEventHeader"
_KINDS = {"CREATE": "CREATED", "UNDELETE": "CREATED", "UPDATE": "UPDATED", "DELETE": "DELETED"}
# A gap event says that something changed, and not what. One that lost count names no record.
_GAP, _OVERFLOW = "GAP_", "GAP_OVERFLOW"
_FULL = ("CREATE", "UNDELETE")
_NO_RECORD = re.compile(r"0{15,18}[A-Z]{0,3}")
# The name of a branch of a union: a type of Avro, with a logical type or a namespace behind it.
_BRANCH = re.compile(
    r"(null|boolean|int|long|float|double|bytes|string|array|map)(\.[\w-]+)?|[A-Za-z_]\w*(\.\w+)+"
)
# A set of fields by the bits of their numbers, which only Salesforce's own schema can name.
_BITS = re.compile(r"(\d+-)?0x[0-9A-Fa-f]*")
_CLIENT = re.compile(r"client=([^;]+)")
_MAX_RECORDS = 10_000


def from_salesforce(message: ForeignMessage, how: ConversionOptions) -> list[dict[str, Any]]:
    """Convert a change event: one LeadChanged for each record, none where nothing changed.

    A row without a ChangeEventHeader comes from a snapshot, and is scored again. Raises Poison, and
    Transient as the other converters do.
    """
    value = parsed(message.value, how)
    if value is None or value == "":
        return [deletion(occasion_of_key(message, how), how)]
    value = _payload(value)
    header = _untagged(value.get(_HEADER))
    if header is None:
        return _from_snapshot(value, message, how)
    if not isinstance(header, dict):
        raise invalid(f"the {_HEADER} is no object")
    if (header.get("entityName") or how.object) != how.object:
        return []
    kind = _kind(header.get("changeType"))
    row = _row(value, how.description)
    if kind == "UPDATED" and not _is_watched(header, row, how.description):
        return []
    at = event_time("commitTimestamp", header.get("commitTimestamp")) or message.timestamp
    full = header.get("changeType") in _FULL
    found = [
        _change(kind, ChangeOccasion(lead_id, at, identity), row, how, full=full)
        for lead_id, identity in _identities(header, message)
    ]
    own = {"origin": LEADSTREAM} if _is_own(header.get("changeOrigin")) else {}
    return [record | own for record in found if record is not None]


def _change(
    kind: str,
    occasion: ChangeOccasion,
    row: Mapping[str, Any],
    how: ConversionOptions,
    *,
    full: bool,
) -> dict[str, Any] | None:
    """Return the change of one record; None for one that is left out, as in an export."""
    deleted = how.description.database and how.description.database.deleted
    if kind == "DELETED" or row.get("IsDeleted") is True or (deleted and deleted.holds(row)):
        return deletion(occasion, how, row)
    if is_gone(row, how.description):
        return None
    make = changed if full else changed_without_state
    record = make(kind, occasion, row, how)
    if record["lead"] is None and how.state and not how.fetched:
        raise invalid(
            "the event brings only a part of the lead: set DATABASE_URL, from which the consumer "
            "then reads the whole"
        )
    return record


def _from_snapshot(
    value: Mapping[str, Any], message: ForeignMessage, how: ConversionOptions
) -> list[dict[str, Any]]:
    attributes = value.get("attributes")
    kind = attributes.get("type") if isinstance(attributes, dict) else None
    if (kind or how.object) != how.object:
        return []
    row = _row(value, how.description)
    lead_id = row.get(how.description.id)
    if lead_id is None:
        raise invalid(f"it has no {_HEADER}, and no {how.description.id} of a row")
    lead_id = required("the record's id", lead_id)
    occasion = ChangeOccasion(lead_id, message.timestamp, message.position)
    record = _change("RESCORE", occasion, row, how, full=True)
    return [] if record is None else [record]


def _payload(value: Any) -> Mapping[str, Any]:
    """Return the fields of an event, which may be inside `payload`, and that inside `data`."""
    for name in ("data", "payload"):
        if isinstance(value, dict) and _HEADER not in value and isinstance(value.get(name), dict):
            value = value[name]
    if not isinstance(value, dict):
        raise invalid("it is no change event of Salesforce, which is an object")
    return value


def _untagged(value: Any) -> Any:
    """Return a value without the name of its union's branch."""
    if isinstance(value, dict) and len(value) == 1:
        [(name, inner)] = value.items()
        if isinstance(name, str) and _BRANCH.fullmatch(name):
            return inner
    return value


def _row(value: Mapping[str, Any], description: CrmDescription) -> dict[str, Any]:
    """Return the fields by their API names; parts of an address also by their own names.

    A column of the description may differ from the API name in letter case.
    """
    row: dict[str, Any] = {}
    for name, tagged in value.items():
        if name in (_HEADER, "attributes"):
            continue
        inner = _untagged(tagged)
        if isinstance(inner, dict):
            for part, item in inner.items():
                row.setdefault(name.removesuffix("Address") + str(part), _untagged(item))
        else:
            row[name] = inner
    # In Avro a field is null if it did not change, too.
    found = {name: item for name, item in (basic_row(row) or {}).items() if item is not None}
    by_case = {name.casefold(): name for name in found}
    wanted = (description.id, description.version or "", *watched_columns(description))
    for column in wanted:
        same = by_case.get(column.casefold())
        if column not in found and same is not None:
            found[column] = found[same]
    return found


def _kind(change_type: Any) -> str:
    if change_type == _OVERFLOW:
        raise invalid(
            "Salesforce lost count of changes (GAP_OVERFLOW): send all leads again, from an export "
            "or by `leadstream rescore --all`"
        )
    base = change_type.removeprefix(_GAP) if isinstance(change_type, str) else ""
    if base not in _KINDS:
        raise invalid(f"the changeType is none of {', '.join(_KINDS)}, with or without {_GAP}")
    return _KINDS[base]


def _is_watched(
    header: Mapping[str, Any], row: Mapping[str, Any], description: CrmDescription
) -> bool:
    """Return whether an update can have changed a field that a score depends on."""
    watched = {column.casefold() for column in watched_columns(description)} | {"isdeleted"}
    names = _texts(header.get("changedFields"))
    if not names:
        return True  # a gap
    if any(_BITS.fullmatch(name) for name in names):
        # In Avro all fields are there, and null where they did not change or became null.
        if _texts(header.get("nulledFields")):
            return True
        names = list(row)
    changed_names = {
        form.casefold()
        for name in names
        for form in (name, name.replace("Address.", ""), name.partition(".")[0])
    }
    return bool(watched & changed_names)


def _record_ids(header: Mapping[str, Any]) -> list[str]:
    ids = [required("the id of a record", each) for each in _list(header.get("recordIds"))]
    if not ids:
        raise invalid("recordIds is missing or empty")
    if len(ids) > _MAX_RECORDS:
        raise invalid(f"the event names more than {_MAX_RECORDS:,} records")
    if any("*" in each or _NO_RECORD.fullmatch(each) for each in ids):
        raise invalid(
            "recordIds names no single records: send the leads again, from an export or by "
            "`leadstream rescore --all`"
        )
    return list(dict.fromkeys(ids))


def _identities(header: Mapping[str, Any], message: ForeignMessage) -> Iterator[tuple[str, str]]:
    """Yield each record's id, and an id of its change that is the same when it is sent again."""
    key, sequence = header.get("transactionKey"), header.get("sequenceNumber")
    known = isinstance(key, str) and key and isinstance(sequence, int)
    for number, lead_id in enumerate(_record_ids(header)):
        identity = f"{key}-{sequence}-{lead_id}"
        if not known or len(identity) > MAX_ID_CHARACTERS:
            identity = f"{message.position}-{number}"
        yield lead_id, identity


def _is_own(origin: Any) -> bool:
    """Return whether Leadstream wrote the change: its calls name it as their client."""
    clients = _CLIENT.findall(origin) if isinstance(origin, str) else []
    return any(client.strip().lower() == LEADSTREAM for client in clients)


def _list(value: Any) -> Sequence[Any]:
    value = _untagged(value)
    return value if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return [each for each in _list(value) if isinstance(each, str)]
