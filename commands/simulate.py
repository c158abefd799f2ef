"""`leadstream simulate`: a CRM that lives and sends its changes."""

import argparse
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from commands.progress import bar, share
from leadstream.errors import UserError
from leadstream.settings import load_settings
from producer.bad import BadRecord, bad_records
from producer.crm import Connection, connect, create_schema, fill, write_applications, write_changes
from producer.publish import EventPublisher, publishing
from producer.simulator import DAY_MS, Change, Shares, SimulatedCrm

_YEAR_DAYS = 365
_PORTION = 100


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `simulate`."""
    parser = subparsers.add_parser(
        "simulate",
        help="send the lead changes of a simulated CRM",
        description="A simulated CRM: its leads arrive, are touched, and apply by a hidden probability. "
        "It has lived for a year; its newest changes are sent to the changes topic.",
        epilog="example: leadstream simulate --rate 100 --count 5000 --database",
    )
    add = parser.add_argument
    add("--rate", type=float, default=50.0, metavar="N", help="changes a second; 0 = as fast as it goes (default 50)")
    add("--count", type=int, default=1000, metavar="N", help="how many changes to send (default 1000)")
    add("--leads", type=int, default=20_000, metavar="N", help="how many leads the CRM has (default 20000)")
    add("--seed", type=int, default=1, help="the same seed gives the same leads (default 1)")
    add("--database", action="store_true", help="also write the CRM to DATABASE_URL: its history, and each change")
    add("--bad-share", type=share, default=0.01, help="bad records of every reason beside the changes (default 0.01)")
    add("--thin-share", type=share, help="changes without state (default 0.05 with --database, else 0)")
    add("--late-share", type=share, default=0.01, help="changes that come after a newer one (default 0.01)")
    add("--repeated-share", type=share, default=0.01, help="changes that come twice (default 0.01)")
    add("--erased-share", type=share, default=0.002, help="erasures: half DELETED, half null (default 0.002)")
    add("--loop-share", type=share, default=0.005, help="scores written back, to be ignored (default 0.005)")
    add("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Send the changes; returns the exit code."""
    if args.count < 1 or args.leads < 1 or args.rate < 0 or args.seed < 0:
        raise UserError("--count and --leads must be 1 or more, --rate and --seed 0 or more")
    settings = load_settings()
    now = time.time_ns() // 1_000_000
    crm = SimulatedCrm(args.seed, start=now - _YEAR_DAYS * DAY_MS, leads=args.leads, days=_YEAR_DAYS)
    available = sum(1 for _ in crm.changes(until=now))
    if args.count > available:
        raise UserError(f"{args.leads} leads make {available} changes in a year: ask for fewer, or give more --leads")
    since = crm.moment(-args.count, until=now)
    thin = args.thin_share if args.thin_share is not None else 0.05 * args.database
    shares = Shares(
        late=args.late_share,
        repeated=args.repeated_share,
        thin=thin,
        deleted=args.erased_share / 2,
        tombstone=args.erased_share / 2,
        loop=args.loop_share,
    )
    sent: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        conn = None
        if args.database:
            conn = stack.enter_context(connect(settings.need("DATABASE_URL", "name the Postgres of the CRM")))
            conn.autocommit = True
            _found_crm(conn, crm, since)
        publisher = stack.enter_context(publishing(settings))
        topics = settings.topics
        wrong = bad_records(
            args.seed,
            now=now,
            encode_event=lambda record: publisher.encode("LeadChanged", topics.lead_changes, record),
            encode_request=lambda record: publisher.encode("RescoreRequest", topics.rescore_requests, record),
        )
        rng = np.random.default_rng([args.seed, 3])
        advance = stack.enter_context(bar("changes", args.count, shown=not args.json))
        changes = _written(itertools.islice(crm.deliveries(shares, since, now), args.count), conn)
        for change in _paced(changes, args.rate):
            publisher.send("LeadChanged", topics.lead_changes, change.lead_id, change.record)
            sent[change.kind] += 1
            while rng.random() < args.bad_share / (1 + args.bad_share):
                record = next(wrong)
                _send_bad(
                    publisher, record, {"lead_changes": topics.lead_changes}.get(record.topic, topics.rescore_requests)
                )
                bad[record.reason] += 1
            advance(1)
        if conn is not None:
            write_applications(conn, crm.applications(since, now))
    if args.json:
        print(json.dumps({"sent": sent.total(), "kinds": sent, "bad": bad.total(), "reasons": bad}))
    else:
        print(f"{sent.total():,} changes sent: " + ", ".join(f"{n:,} {kind}" for kind, n in sent.most_common()))
        print(
            f"{bad.total():,} bad records sent" + (": " if bad else "") + ", ".join(f"{n} {r}" for r, n in bad.items())
        )
    return 0


def _send_bad(publisher: EventPublisher, record: BadRecord, topic: str) -> None:
    publisher.send_bytes(topic, record.key, record.value)


def _found_crm(conn: Connection, crm: SimulatedCrm, until: int) -> None:
    import psycopg

    create_schema(conn)
    try:
        fill(conn, crm, until)
    except psycopg.errors.UniqueViolation:
        raise UserError(f"the CRM of --seed {crm.seed} is in DATABASE_URL already: give another --seed") from None


def _written(changes: Iterator[Change], conn: Connection | None) -> Iterator[Change]:
    """The same changes, each once the CRM has it."""
    if conn is None:
        yield from changes
        return
    while portion := list(itertools.islice(changes, _PORTION)):
        write_changes(conn, portion)
        yield from portion


def _paced(changes: Iterable[Change], rate: float) -> Iterator[Change]:
    began = time.monotonic()
    for number, change in enumerate(changes):
        if rate:
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
        yield change
