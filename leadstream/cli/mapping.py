"""`leadstream mapping`: a first mapping from a file."""

import argparse
import json
import sys
import tomllib
from pathlib import Path

from leadstream.errors import UserError

EPILOG = """examples:
  leadstream mapping suggest leads.csv --output leads.toml
  leadstream import leads.csv --mapping leads.toml --dry-run
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `mapping` with its own verb."""
    parser = subparsers.add_parser(
        "mapping",
        help="write a first mapping from a file",
        description="Find the columns of a file: id, times, outcome, inputs and likely leaks.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="mapping_verb", required=True, metavar="VERB")
    verb = verbs.add_parser(
        "suggest",
        help="write a first mapping from a file",
        description="Read a CSV or Parquet file, and print a mapping of its columns with what is\n"
        "unsure. Check it before you use it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        help="the export: CSV, or Parquet where its name ends in .parquet",
    )
    verb.add_argument(
        "--output", metavar="MAP.toml", type=Path, help="write the mapping here; it must be new"
    )
    verb.add_argument("--json", action="store_true", help="print one JSON object")
    verb.set_defaults(func=suggest_mapping)


def suggest_mapping(args: argparse.Namespace) -> int:
    """Print a first mapping of the file, or write it."""
    from producer.importer import read_rows
    from producer.mapping import parse_mapping
    from producer.refusals import report_of
    from producer.suggest import suggest

    parquet = args.file.suffix.lower() == ".parquet"
    suggestion = suggest(args.file, parquet=parquet)
    name = str(args.output or "the suggestion")
    mapping = parse_mapping(name, tomllib.loads(suggestion.text))
    report = report_of(list(read_rows(args.file, mapping, parquet=parquet)), mapping)
    if args.output:
        try:
            with args.output.open("x", encoding="utf-8") as file:
                file.write(suggestion.text)
        except OSError as error:
            raise UserError(f"{args.output}: {error.strerror}") from None
    if args.json:
        result = {"mapping": suggestion.text, "unsure": suggestion.unsure, "file": report.as_json()}
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return 0
    if not args.output:
        print(suggestion.text, end="")
    read = report.rows - report.refused_rows
    print(f"It reads {read:,} of {report.rows:,} rows.", file=sys.stderr)
    if args.output:
        for sentence in suggestion.unsure:
            print(f"Unsure: {sentence}.", file=sys.stderr)
    return 0
