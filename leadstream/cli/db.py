"""`leadstream db migrate`: the tables that Leadstream needs in the CRM's database."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from leadstream.errors import SettingsError

if TYPE_CHECKING:
    from leadstream.settings import Settings
    from schemas.crm_description import CrmDescription

NEEDS = """\
Needs CREATE on this schema, and TRIGGER on people and applications, or on the
tables of leads and outcomes that --fields describes.
It locks these tables for a moment; where that takes over 3 seconds, nothing is
changed.
"""


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser("db", help="the outbox in the CRM's database")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    migrate = actions.add_parser(
        "migrate",
        help="add the outbox to the CRM's database, or bring it up to date",
        description="Apply the migrations that DATABASE_URL does not have yet, in order and in\n"
        "one transaction: tables and triggers named leadstream_..., and lead_scores, in\n"
        "the schema of the table people.\n" + NEEDS,
        epilog="example:\n  leadstream db migrate --dry-run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    migrate.add_argument(
        "--fields",
        metavar="CRM.toml",
        nargs="?",
        const="",
        help="the file that describes the CRM, whose tables get the triggers (default: "
        "LEADSTREAM_FIELDS, or else people); the outbox is in the first schema of the search path",
    )
    migrate.add_argument(
        "--without-triggers",
        action="store_true",
        help="for leads in a view: leave their changes to `rescore --all`",
    )
    migrate.add_argument("--dry-run", action="store_true", help="apply them, then roll them back")
    migrate.add_argument("--json", action="store_true", help="print one JSON object")
    migrate.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Apply the missing migrations, and print them."""
    from leadstream.settings import load_settings
    from producer.migrate import migrate

    settings = load_settings()
    description = _described(arguments, settings)
    done = migrate(
        settings.need("DATABASE_URL", "name the Postgres of the CRM"),
        dry_run=arguments.dry_run,
        description=description,
        triggers=not arguments.without_triggers,
    )
    if arguments.json:
        print(json.dumps(asdict(done) | {"dry_run": arguments.dry_run}, indent=2))
        return 0
    for name in done.present:
        print(f"present         {name}")
    for name in done.applied:
        print(f"{'would be added' if arguments.dry_run else 'added         '}  {name}")
    for note in done.notes:
        print(f"note: {note}")
    return 0


def _described(arguments: argparse.Namespace, settings: "Settings") -> "CrmDescription | None":
    """Return the description to migrate for, None for the table people."""
    from pathlib import Path

    from schemas.description_file import described_crm, load_description

    path = arguments.fields or (
        settings.need("LEADSTREAM_FIELDS", "name the file that describes the CRM")
        if arguments.fields is not None
        else None
    )
    found = load_description(Path(path)) if path else described_crm(settings)
    if (path or arguments.without_triggers) and (found is None or found.database is None):
        where = found.path if found else "LEADSTREAM_FIELDS"
        raise SettingsError(f"{where} has no [database]: name the table of leads there")
    return found
