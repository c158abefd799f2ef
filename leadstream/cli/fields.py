"""`leadstream fields`: the file that describes a CRM, proposed and checked."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from leadstream.errors import SettingsError, UserError

if TYPE_CHECKING:
    from leadstream.postgres import Connection
    from leadstream.settings import Settings

STATEMENT_MS = 60_000


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser("fields", help="the file that describes the CRM (LEADSTREAM_FIELDS)")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    suggest = actions.add_parser(
        "suggest",
        help="propose a description from the CRM's database",
        description="Look in the catalog of DATABASE_URL for a table of leads and one of\n"
        "outcomes, read a sample of rows, and print a first description as TOML.\n"
        "Nothing is written to the database.",
        epilog="example:\n  leadstream fields suggest --postgres --output crm.toml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    suggest.add_argument(
        "--postgres", action="store_true", required=True, help="from the catalog of DATABASE_URL"
    )
    suggest.add_argument(
        "--table", metavar="SCHEMA.TABLE", help="the table of leads, if another one is proposed"
    )
    suggest.add_argument(
        "--time-zone",
        metavar="ZONE",
        help="the zone of times that have none, for example Europe/Berlin",
    )
    suggest.add_argument(
        "--output", metavar="FILE", type=Path, help="a new file (default: standard output)"
    )
    suggest.set_defaults(func=run_suggest)
    check = actions.add_parser(
        "check",
        help="say what of a description does not fit the CRM's database",
        description="Compare a description with the catalog of DATABASE_URL and a sample of\n"
        "leads. Exit code 1 means that something does not fit.",
        epilog="example:\n  leadstream fields check crm.toml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument(
        "file", nargs="?", type=Path, help="the description (default: LEADSTREAM_FIELDS)"
    )
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.set_defaults(func=run_check)


def run_suggest(arguments: argparse.Namespace) -> int:
    """Print a first description, or write it to a new file."""
    from leadstream.settings import load_settings
    from producer.crm_suggest import suggest
    from producer.crm_zone import named_zone

    if arguments.time_zone:
        named_zone(arguments.time_zone)
    with _connected(load_settings()) as connection:
        found = suggest(connection, arguments.table, arguments.time_zone)
    if arguments.output is None:
        print(found.text, end="")
        for sentence in found.open:
            print(sentence, file=sys.stderr)
        return 0
    try:
        with arguments.output.open("x", encoding="utf-8") as file:
            file.write(found.text)
    except OSError as error:
        raise UserError(f"{arguments.output}: {error.strerror}") from None
    for sentence in found.open:
        print(sentence)
    print(f"{arguments.output}: read it, then run `leadstream fields check {arguments.output}`")
    return 0


def run_check(arguments: argparse.Namespace) -> int:
    """Print what does not fit, one line each; return 1 if there is anything."""
    from leadstream.settings import load_settings
    from producer.crm_check import check_fit
    from producer.crm_fit import percent
    from schemas.description_file import described_crm, load_description

    settings = load_settings()
    description = load_description(arguments.file) if arguments.file else described_crm(settings)
    if description is None:
        raise SettingsError("LEADSTREAM_FIELDS is not set: name the file that describes the CRM")
    with _connected(settings, "-c TimeZone=UTC") as connection:
        report = check_fit(connection, description)
    if arguments.json:
        print(json.dumps({"file": description.path, **asdict(report)}, indent=2))
        return 1 if report.problems else 0
    for problem in report.problems:
        print(f"FAIL  {problem}")
    for note in report.notes:
        print(f"note  {note}")
    for field, share in report.missing.items():
        if share:
            print(f"note  lead.{field}: {percent(share)} of {report.rows:,} leads have no value")
    if not report.problems:
        print(f"ok    {description.path} fits; {report.rows:,} leads were read")
    return 1 if report.problems else 0


@contextmanager
def _connected(settings: "Settings", options: str = "") -> "Iterator[Connection]":
    """Yield a connection that only reads. Raises UserError if Postgres refuses or fails."""
    import psycopg

    from leadstream.postgres import connect, describe_postgres

    url = settings.need("DATABASE_URL", "name the Postgres of the CRM")
    try:
        with connect(
            url,
            statement_ms=STATEMENT_MS,
            options=f"-c default_transaction_read_only=on -c extra_float_digits=3 {options}",
            application_name="leadstream fields",
        ) as connection:
            yield connection
    except psycopg.Error as error:
        raise UserError(f"DATABASE_URL: {describe_postgres(error)}") from None
