"""`leadstream schemas check | register | show`: the records' schemas and how they may change."""

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the verb `schemas` with its three actions."""
    parser = subparsers.add_parser(
        "schemas",
        help="schema evolution: check, register, show",
        description="Compare the Avro schemas of all records with the released ones, register "
        "them, or print them.",
        epilog="example: leadstream schemas check",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")

    check_parser = actions.add_parser(
        "check",
        help="compare every released schema with the present one",
        description="Compare every released schema with the present one; print each break, and "
        "exit 1.",
        epilog="example: leadstream schemas check --json",
    )
    check_parser.set_defaults(func=check)

    register_parser = actions.add_parser(
        "register",
        help="register every subject at SCHEMA_REGISTRY_URL",
        description="Register every subject (topic-value) with its compatibility at "
        "SCHEMA_REGISTRY_URL.",
        epilog="example: SCHEMA_REGISTRY_URL=http://localhost:8081 leadstream schemas register",
    )
    register_parser.set_defaults(func=register)

    show_parser = actions.add_parser(
        "show",
        help="print a schema and its fingerprint",
        description="Print the schema and the fingerprint of a record; without a name, one line "
        "for each record.",
        epilog="example: leadstream schemas show LeadPrediction",
    )
    show_parser.add_argument("name", nargs="?", help="the record, such as LeadChanged")
    show_parser.set_defaults(func=show)

    for action in (check_parser, register_parser, show_parser):
        action.add_argument("--json", action="store_true", help="print JSON for a program to read")


def check(arguments: argparse.Namespace) -> int:
    """Compare every released schema with the present one; return 1 after a break."""
    from schemas.evolution import compare_releases

    comparisons = compare_releases()
    broken = [sentence for comparison in comparisons for sentence in comparison.breaks]
    if arguments.json:
        rows = [
            {
                "record": each.record,
                "version": each.version,
                "compatibility": each.level,
                "changed": each.changed,
                "same_bytes": each.same_bytes,
                "breaks": each.breaks,
            }
            for each in comparisons
        ]
        print(json.dumps({"ok": not broken, "comparisons": rows}, indent=2))
        return int(bool(broken))
    for each in comparisons:
        print(f"{each.record:<16} {each.version:<8} {each.level:<20} {_result_line(each)}")
    for sentence in broken:
        print(sentence)
    return int(bool(broken))


def register(arguments: argparse.Namespace) -> int:
    """Register every subject at SCHEMA_REGISTRY_URL, after its compatibility. Raises UserError."""
    from contextlib import closing

    from leadstream.errors import Transient, UserError
    from leadstream.settings import load_settings
    from schemas import schema_files
    from schemas.evolution import COMPATIBILITY
    from schemas.registry import Registry

    settings = load_settings()
    url = settings.need("SCHEMA_REGISTRY_URL", "name the registry for the schemas")
    topics = settings.topics
    records = {
        topics.lead_changes: "LeadChanged",
        topics.rescore_requests: "RescoreRequest",
        topics.lead_predictions: "LeadPrediction",
        topics.rescore_results: "RescoreResult",
        topics.dead_letter_audit: "TriageDecision",
        topics.lead_outcomes: "LeadOutcome",
        topics.shadow_predictions: "LeadPrediction",
        topics.retrain_requests: "RetrainRequested",
    }
    rows = []
    with closing(Registry(url)) as registry:
        for topic, record in records.items():
            subject = f"{topic}-value"
            try:
                # First, so that the registry applies it to this registration.
                registry.set_compatibility(subject, COMPATIBILITY[record])
                number = registry.schema_id(subject, schema_files.current_schema(record))
            except Transient as error:
                raise UserError(
                    f"{subject} was not registered: the schema registry fails, {error.detail}."
                ) from None
            rows.append(
                {
                    "subject": subject,
                    "record": record,
                    "id": number,
                    "compatibility": COMPATIBILITY[record],
                }
            )
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            print(
                f"{row['subject']:<35} {row['record']:<16} id {row['id']:<5} {row['compatibility']}"
            )
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Print one schema and its fingerprint, or a line for each. Raises SettingsError."""
    from leadstream.errors import SettingsError
    from schemas import schema_files
    from schemas.evolution import COMPATIBILITY

    if arguments.name is not None and arguments.name not in schema_files.FILES:
        raise SettingsError(
            f"There is no record {arguments.name}; there are {', '.join(schema_files.FILES)}."
        )
    rows = [
        {
            "record": record,
            # As a number; on the wire the bytes are reversed.
            "fingerprint": schema_files.fingerprint_bytes(schema_files.current_schema(record))[
                ::-1
            ].hex(),
            "compatibility": COMPATIBILITY[record],
            "schema": schema_files.current_schema(record),
        }
        for record in ([arguments.name] if arguments.name else schema_files.FILES)
    ]
    if arguments.json:
        print(json.dumps(rows[0] if arguments.name else rows, indent=2, ensure_ascii=False))
        return 0
    for row in rows:
        print(f"{row['record']:<16} {row['fingerprint']}  {row['compatibility']}")
    if arguments.name:
        print(json.dumps(rows[0]["schema"], indent=2, ensure_ascii=False))
    return 0


def _result_line(comparison: Any) -> str:
    if comparison.breaks:
        return "BROKEN"
    if not comparison.changed:
        return "unchanged"
    return "compatible, same bytes on the wire" if comparison.same_bytes else "compatible, changed"
