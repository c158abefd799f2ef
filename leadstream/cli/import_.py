"""`leadstream import`: a CRM export (CSV or Parquet) as lead changes and outcomes."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leadstream.cli.file_report import print_report, refused_lines
from leadstream.cli.progress import bar, positive, share
from leadstream.errors import SettingsError

if TYPE_CHECKING:
    from leadstream.settings import Settings
    from producer.importer import ImportedRow, RefusedRow
    from producer.mapping import LeadMapping
    from producer.refusals import FileReport


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "import",
        help="send a CRM export as lead changes",
        description="Read a CSV or Parquet file by a mapping of its columns, and send a change\n"
        "for each row, oldest first. Refused rows are reported by reason, and the\n"
        "import continues; the exit code is then 1.",
        epilog="examples:\n  leadstream import leads.csv --mapping mapping.toml --dry-run\n"
        "  leadstream import Lead.csv --preset salesforce --dry-run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "file",
        metavar="FILE",
        type=Path,
        help="the export: CSV, or Parquet where its name ends in .parquet",
    )
    by = parser.add_mutually_exclusive_group()
    by.add_argument(
        "--mapping",
        metavar="M.toml",
        type=Path,
        help="the column of each field of a lead (default LEADSTREAM_FIELDS)",
    )
    by.add_argument(
        "--preset",
        choices=["hubspot", "salesforce"],
        help="the columns of this CRM's export of leads, and those of LEADSTREAM_FIELDS",
    )
    add(
        "--columns",
        default="",
        metavar="F=C,...",
        help="with --preset, further columns: lead_score=NAME, numbers.gpa=NAME",
    )
    add(
        "--dry-run",
        action="store_true",
        help="read and check everything, send nothing, show the first change",
    )
    add(
        "--outcomes",
        action="store_true",
        help="also send the outcome of each lead, if the file has it",
    )
    end = parser.add_mutually_exclusive_group()
    end.add_argument(
        "--oldest", type=share, metavar="X", help="only this share of the good rows, the oldest"
    )
    end.add_argument(
        "--newest", type=share, metavar="X", help="only this share of the good rows, the newest"
    )
    add("--limit", type=positive, metavar="N", help="at most N rows")
    add("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Import the file; return 1 after a refused row."""
    from leadstream.settings import load_settings
    from producer.importer import (
        ImportedRow,
        lead_change_of_row,
        lead_outcome_of_row,
        read_rows,
        select,
    )
    from producer.refusals import report_of

    settings = load_settings()
    parquet = arguments.file.suffix.lower() == ".parquet"
    mapping = _mapping(arguments, settings, parquet=parquet)
    if arguments.outcomes and mapping.outcome is None:
        raise SettingsError(
            f"{mapping.name}: outcome: is missing: --outcomes needs the column that holds it"
        )
    results = list(read_rows(arguments.file, mapping, parquet=parquet))
    good = [result for result in results if isinstance(result, ImportedRow)]
    rows = select(good, oldest=arguments.oldest, newest=arguments.newest, limit=arguments.limit)
    outcomes = (
        [outcome for row in rows if (outcome := lead_outcome_of_row(row)) is not None]
        if arguments.outcomes
        else []
    )
    if not arguments.dry_run:
        topics = settings.topics
        changes = [("LeadChanged", topics.lead_changes, lead_change_of_row(row)) for row in rows]
        decided = [("LeadOutcome", topics.lead_outcomes, outcome) for outcome in outcomes]
        _send(settings, changes + decided, visible=not arguments.json)
    _report(arguments, rows, len(outcomes), report_of(results, mapping), results)
    return 1 if len(good) < len(results) else 0


def _mapping(
    arguments: argparse.Namespace, settings: "Settings", *, parquet: bool
) -> "LeadMapping":
    """Return the mapping of the file; say what it cannot bring. Raises SettingsError."""
    from producer.mapping import load_mapping
    from producer.presets import load_preset, retired_columns
    from schemas.description_file import read_document

    described = Path(settings.crm_description) if settings.crm_description else None
    if not arguments.preset:
        if arguments.columns:
            raise SettingsError("--columns adds to a preset: name the columns in the mapping")
        if (path := arguments.mapping or described) is None:
            raise SettingsError(
                "name the columns: --mapping M.toml, --preset, or LEADSTREAM_FIELDS"
            )
        return load_mapping(path)
    own = read_document(described).get("lead", {}) if described else {}
    mapping, absent = load_preset(
        arguments.preset, arguments.file, parquet=parquet, own=own, columns=arguments.columns
    )
    if absent:
        print(f"no column for {', '.join(absent)}: missing in every lead", file=sys.stderr)
    for sentence in retired_columns(arguments.preset, mapping):
        print(f"warning: {sentence}", file=sys.stderr)
    return mapping


def _send(
    settings: "Settings", records: list[tuple[str, str, dict[str, Any]]], *, visible: bool
) -> None:
    from producer.publish import publishing

    with (
        publishing(settings) as publisher,
        bar("records", len(records), visible=visible) as advance,
    ):
        for name, topic, record in records:
            publisher.send(name, topic, record["lead_id"], record)
            advance(1)


def _report(
    arguments: argparse.Namespace,
    rows: "list[ImportedRow]",
    outcomes: int,
    report: "FileReport",
    results: "list[ImportedRow | RefusedRow]",
) -> None:
    from producer.importer import lead_change_of_row

    first = lead_change_of_row(rows[0]) if arguments.dry_run and rows else None
    if arguments.json:
        counts = {"changes": len(rows), "outcomes": outcomes, "dry_run": arguments.dry_run}
        refused = {"refused": refused_lines(results), "file": report.as_json()}
        print(json.dumps(counts | {"first_change": first} | refused, indent=2))
        return
    print_report(arguments.file, report)
    if first:
        print("the first change:", json.dumps(first, indent=2, ensure_ascii=False), sep="\n")
    done = "would be sent" if arguments.dry_run else "sent"
    refusals = f"; {report.refused_rows:,} rows were refused" if report.refused else ""
    print(f"{len(rows):,} changes and {outcomes:,} outcomes {done}{refusals}")
