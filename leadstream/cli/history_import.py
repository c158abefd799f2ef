"""`leadstream history import`: the history that a CRM has, as states of the past."""

import argparse
import json
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leadstream.cli.progress import bar

if TYPE_CHECKING:
    from consumer.history.import_writer import ImportResult
    from producer.log_import import LogReport

_WIDTH, _NAME = 80, 30
FORMATS = ("salesforce", "hubspot", "dynamics", "fields", "rows", "debezium")
EPILOG = """examples:
  leadstream history import LeadHistory.csv --format salesforce --leads Lead.csv
  leadstream history import contacts.json --format hubspot --dry-run
  leadstream history import --postgres --dry-run
"""


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to those of the history."""
    parser = verbs.add_parser(
        "import",
        help="begin with the history that the CRM has: its log of field changes",
        description="Reconstruct the states that leads had, from today's leads and a log of their\n"
        "changes, and add them to the history. A field that the log does not prove is\n"
        "missing. What could not be placed is counted. Doing it twice changes nothing.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "file",
        metavar="FILE",
        type=Path,
        nargs="?",
        help="the log: CSV, JSON, or JSON lines",
    )
    add(
        "--format",
        choices=FORMATS,
        metavar="FORMAT",
        help="of FILE. salesforce: LeadHistory; hubspot: propertiesWithHistory, or a CSV; "
        "dynamics: the table audit; fields: columns that [history] of the mapping names; rows: a "
        "state in each row, as of occurred_at; debezium: change events",
    )
    add(
        "--from",
        dest="topic",
        metavar="TOPIC",
        help="in place of FILE: a topic of Debezium, as far as it is there",
    )
    add(
        "--postgres",
        action="store_true",
        help="in place of FILE: the table that [history] of LEADSTREAM_FIELDS names, in "
        "DATABASE_URL, or lead_history of a simulated CRM",
    )
    add(
        "--outbox",
        action="store_true",
        help="in place of FILE: the rows that the outbox in DATABASE_URL still has",
    )
    add(
        "--leads",
        metavar="FILE",
        type=Path,
        help="the leads of today: CSV or Parquet (default: those of DATABASE_URL)",
    )
    add(
        "--mapping",
        metavar="M.toml",
        type=Path,
        help="the columns of the leads (default LEADSTREAM_FIELDS, or the preset of the CRM)",
    )
    add(
        "--columns",
        default="",
        metavar="F=C,...",
        help="with a preset, further columns: lead_score=NAME, numbers.gpa=NAME",
    )
    add(
        "--tracked-since",
        type=moment,
        metavar="DATE",
        help="the log has every change since then (default: of each field, since its first one)",
    )
    add(
        "--tracked",
        default="",
        metavar="F,...",
        help="with --tracked-since, columns that were tracked and never changed",
    )
    add("--dry-run", action="store_true", help="read and count everything, write nothing")
    add("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(func=run)


def moment(text: str) -> int:
    """Parse a date or time, without a zone in UTC, to milliseconds."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a date, for example 2024-01-31"
        ) from None
    return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def run(arguments: argparse.Namespace) -> int:
    """Import; the exit code is 1 if there was nothing to import."""
    from leadstream.cli.history_extra import PURPOSE, need_extra
    from leadstream.settings import load_settings

    settings = load_settings()
    root = settings.need("LEADSTREAM_HISTORY", PURPOSE)
    need_extra()
    from consumer.history.import_writer import ImportWriter
    from consumer.history.table_schemas import CHANGES, OUTCOMES
    from consumer.history.writer import HistoryTables
    from leadstream.cli.import_source import ImportSource
    from producer.log_import import LogReport

    report = LogReport()
    with ExitStack() as resources:
        progress = bar("rows and leads", None, visible=not arguments.json)
        advance = resources.enter_context(progress)
        source = ImportSource(arguments, settings, report, resources, advance)
        writer = ImportWriter(
            HistoryTables(root), every=source.in_stream, dry_run=arguments.dry_run
        )
        for past in source.pasts():
            writer.add(CHANGES, past.changes)
            writer.add(OUTCOMES, [past.outcome] if past.outcome else [])
            advance(1)
        writer.close()
    _report(arguments, writer.result, report)
    return 0 if writer.result.written or writer.result.known else 1


def _report(arguments: argparse.Namespace, result: "ImportResult", report: "LogReport") -> None:
    left_out = {reason: count for reason, count in report.counts.unplaced.most_common() if count}
    if arguments.json:
        print(json.dumps(_as_json(arguments, result, report), indent=2))
        return
    done = "would be written" if arguments.dry_run else "written"
    for table in ("changes", "outcomes"):
        parts = [f"{result.written[table]:,} {done}"]
        for counts, what in ((result.known, "there already"), (result.erased, "of erased leads")):
            parts += [f"{counts[table]:,} {what}"] if counts[table] else []
        print(f"{table}: {', '.join(parts)}")
    if report.since:
        print("known by the log:")
        for line in _field_lines(report):
            print(line)
    if left_out:
        print("not placed:")
    for reason, count in left_out.items():
        print(textwrap.fill(f"{count:>12,}  {reason.value}", _WIDTH, subsequent_indent=" " * 14))


def _field_lines(report: "LogReport") -> Iterator[str]:
    """Yield a line for each field: since when, and in which share of the states it is known."""
    counts = report.counts
    for name, column in report.columns.items():
        share = counts.known[name] / counts.states if counts.states else 0.0
        since = report.since.get(column)
        when = f"since {_date(since)}" if since is not None else "not tracked"
        print_name = name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
        yield f"  {print_name:<{_NAME}}  {when:<16}  known in {share:.0%} of the states"


def _as_json(
    arguments: argparse.Namespace, result: "ImportResult", report: "LogReport"
) -> dict[str, Any]:
    counts = report.counts
    return {
        "dry_run": arguments.dry_run,
        **{
            table: {
                "written": result.written[table],
                "known": result.known[table],
                "erased": result.erased[table],
            }
            for table in ("changes", "outcomes")
        },
        "fields": {
            name: {
                "since": _iso(report.since.get(column)),
                "known": counts.known[name] / counts.states if counts.states else 0.0,
            }
            for name, column in report.columns.items()
        },
        "not_placed": {
            reason.name.lower(): count for reason, count in counts.unplaced.items() if count
        },
    }


def _iso(at: int | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at / 1000, UTC).isoformat()


def _date(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).date().isoformat()
