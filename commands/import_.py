"""`leadstream import`: a CRM export (CSV) as lead changes and outcomes."""

import argparse
import json
import sys
from pathlib import Path

from commands.progress import bar, positive, share
from leadstream.settings import load_settings
from producer.importer import Problem, Row, event_of, outcome_of, read_rows, select
from producer.mapping import load_mapping
from producer.publish import publishing


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `import`."""
    parser = subparsers.add_parser(
        "import",
        help="send a CRM export as lead changes",
        description="Reads a CSV file by a mapping of its columns and sends a change for each row, oldest first. "
        "Bad rows are reported by line and do not stop the rest.",
        epilog="example: leadstream import leads.csv --mapping mapping.toml --dry-run",
    )
    add = parser.add_argument
    add("file", metavar="FILE.csv", type=Path, help="the export")
    add("--mapping", metavar="M.toml", type=Path, required=True, help="which column is which field of a lead")
    add("--dry-run", action="store_true", help="read and check everything, send nothing, show the first change")
    add("--outcomes", action="store_true", help="also send what became of each lead, where the file says it")
    share_of = parser.add_mutually_exclusive_group()
    share_of.add_argument("--oldest", type=share, metavar="SHARE", help="only the oldest share of the good rows")
    share_of.add_argument("--newest", type=share, metavar="SHARE", help="only the newest share of the good rows")
    add("--limit", type=positive, metavar="N", help="at most N rows")
    add("--json", action="store_true", help="print the summary and the refused rows as JSON")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Import the file; returns 0, or 1 where a row was refused."""
    mapping = load_mapping(args.mapping)
    settings = None if args.dry_run else load_settings()
    results = list(read_rows(args.file, mapping))
    problems = [result for result in results if isinstance(result, Problem)]
    good = [result for result in results if isinstance(result, Row)]
    rows = select(good, oldest=args.oldest, newest=args.newest, limit=args.limit)
    outcomes = [outcome for row in rows if (outcome := outcome_of(row)) is not None] if args.outcomes else []
    if settings is not None and rows:
        with (
            publishing(settings) as publisher,
            bar("changes", len(rows) + len(outcomes), shown=not args.json) as advance,
        ):
            for row in rows:
                publisher.send("LeadChanged", settings.topics.lead_changes, row.lead_id, event_of(row))
                advance(1)
            for outcome in outcomes:
                publisher.send("LeadOutcome", settings.topics.lead_outcomes, outcome["lead_id"], outcome)
                advance(1)
    _report(args, rows, len(outcomes), problems)
    return 1 if problems else 0


def _report(args: argparse.Namespace, rows: list[Row], outcomes: int, problems: list[Problem]) -> None:
    if args.json:
        refused = [{"line": problem.line, "problem": problem.what} for problem in problems]
        summary = {"changes": len(rows), "outcomes": outcomes, "dry_run": args.dry_run, "refused": refused}
        print(json.dumps(summary))
        return
    for problem in problems:
        print(f"{args.file.name}:{problem.line}: {problem.what}", file=sys.stderr)
    if args.dry_run and rows:
        print("the first change:\n" + json.dumps(event_of(rows[0]), indent=2, ensure_ascii=False))
    done = "would be sent" if args.dry_run else "sent"
    tail = f", {len(problems):,} rows refused" if problems else ""
    print(f"{len(rows):,} changes and {outcomes:,} outcomes {done}{tail}")
