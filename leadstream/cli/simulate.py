"""`leadstream simulate`: the changes of a simulated CRM."""

import argparse
import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from leadstream.cli.progress import bar, not_negative, positive, share
from leadstream.errors import SettingsError, UserError

if TYPE_CHECKING:
    from producer.crm import Connection
    from producer.simulator import Shares, SimulatedChange, SimulatedCrm

_YEAR_DAYS = 365


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "simulate",
        help="send the lead changes of a simulated CRM",
        description="Simulate one year of a CRM: leads arrive, have contacts, and apply by a\n"
        "hidden probability. Send the newest changes to the changes topic.",
        epilog="example:\n  leadstream simulate --rate 100 --count 5000 --database",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--rate",
        type=not_negative,
        default=50,
        metavar="N",
        help="changes a second; 0 = as fast as possible (default 50)",
    )
    add(
        "--count",
        type=positive,
        default=1000,
        metavar="N",
        help="how many changes to send (default 1000)",
    )
    add(
        "--leads",
        type=positive,
        default=20_000,
        metavar="N",
        help="how many leads the CRM has (default 20000)",
    )
    add(
        "--seed",
        type=positive,
        default=1,
        metavar="N",
        help="the same seed gives the same leads (default 1)",
    )
    add(
        "--database",
        action="store_true",
        help="also write the CRM to DATABASE_URL: its history, and each change",
    )
    _add_shares(parser)
    add("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(func=run)


def _add_shares(parser: argparse.ArgumentParser) -> None:
    for name, default, what in (
        ("bad", 0.01, "bad records of every reason in addition to the changes (default 0.01)"),
        ("thin", None, "changes without state (default 0.05 with --database, else 0)"),
        ("late", 0.01, "changes that arrive after a newer one of their lead (default 0.01)"),
        ("repeated", 0.01, "changes that arrive twice (default 0.01)"),
        ("erased", 0.002, "erasures, half of them DELETED and half null values (default 0.002)"),
        ("loop", 0.005, "scores written back, which the consumer ignores (default 0.005)"),
    ):
        parser.add_argument(f"--{name}-share", type=share, default=default, metavar="X", help=what)


def run(arguments: argparse.Namespace) -> int:
    """Send the changes, and print how many of each kind."""
    from leadstream.settings import load_settings
    from producer.crm import connected, write_applications
    from producer.live import bad_for, paced, recorded, send_changes
    from producer.publish import publishing
    from producer.simulator import DAY_MS, SimulatedCrm
    from schemas.description_file import described_crm

    settings = load_settings()
    described = described_crm(settings) if arguments.database else None
    if described and described.database:
        raise SettingsError(
            f"--database writes a simulated CRM, and LEADSTREAM_FIELDS={described.path} describes "
            "another one: unset it, and name an empty database"
        )
    now = time.time_ns() // 1_000_000
    crm = SimulatedCrm(
        arguments.seed, start=now - _YEAR_DAYS * DAY_MS, leads=arguments.leads, days=_YEAR_DAYS
    )
    since = _since(crm, arguments.count, now)
    changes: Iterator[SimulatedChange] = itertools.islice(
        crm.deliveries(_shares(arguments), since, now), arguments.count
    )
    with contextlib.ExitStack() as stack:
        publisher = stack.enter_context(publishing(settings))
        conn = None
        if arguments.database:
            conn = stack.enter_context(
                connected(settings.need("DATABASE_URL", "name the Postgres of the CRM"))
            )
            _create_crm(conn, crm, since)
            changes = recorded(changes, conn)
        sent = send_changes(
            publisher,
            settings.topics,
            paced(changes, arguments.rate),
            bad=bad_for(publisher, settings.topics, arguments.seed, now),
            bad_share=arguments.bad_share,
            seed=arguments.seed,
            advance=stack.enter_context(
                bar("changes", arguments.count, visible=not arguments.json)
            ),
        )
        if conn is not None:
            write_applications(conn, crm.applications(since, now))
    if arguments.json:
        totals = {"changes": sent.kinds.total(), "bad": sent.bad.total()}
        print(json.dumps(totals | {"kinds": sent.kinds, "reasons": sent.bad}, indent=2))
    else:
        for what, counts in (("changes", sent.kinds), ("bad records", sent.bad)):
            parts = ", ".join(f"{number:,} {name}" for name, number in counts.most_common())
            print(f"{counts.total():,} {what} sent" + (f": {parts}" if parts else ""))
    return 0


def _since(crm: "SimulatedCrm", count: int, now: int) -> int:
    available = sum(1 for _ in crm.changes(until=now))
    if count > available:
        raise UserError(f"the CRM has only {available:,} changes: lower --count, or raise --leads")
    return crm.moment(-count, until=now)


def _shares(arguments: argparse.Namespace) -> "Shares":
    from producer.simulator import Shares

    without_state = arguments.thin_share
    if without_state is None:
        without_state = 0.05 if arguments.database else 0.0
    if arguments.late_share + without_state > 1:
        raise UserError("--late-share and --thin-share together exceed 1")
    return Shares(
        late=arguments.late_share,
        repeated=arguments.repeated_share,
        without_state=without_state,
        deleted=arguments.erased_share / 2,
        tombstone=arguments.erased_share / 2,
        loop=arguments.loop_share,
    )


def _create_crm(conn: "Connection", crm: "SimulatedCrm", until: int) -> None:
    import psycopg

    from producer.crm import create_schema, fill, refuse_foreign

    refuse_foreign(conn)
    create_schema(conn)
    try:
        fill(conn, crm, until)
    except psycopg.errors.UniqueViolation:
        raise UserError(
            f"the CRM of --seed {crm.seed} is already in DATABASE_URL: choose another --seed"
        ) from None
