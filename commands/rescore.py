"""`leadstream rescore`: ask for leads to be scored again."""

import argparse
import contextlib
import json
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from commands.progress import bar
from leadstream.errors import SettingsError, UserError
from leadstream.settings import Settings, load_settings
from producer.crm import all_leads, connect, count_leads
from producer.publish import publishing
from producer.rescore import read_ids, rescore_event, rescore_requests, unique


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `rescore`."""
    parser = subparsers.add_parser(
        "rescore",
        help="score given leads, or all, again",
        description="Sends a RESCORE change without state for each lead; the consumer reads the state from Postgres.",
        epilog="example: leadstream rescore --file ids.txt",
    )
    add = parser.add_argument
    add("lead_ids", nargs="*", metavar="LEAD_ID", help="a lead's id in the CRM")
    add("--file", metavar="FILE", help="a file with one id a line, # for comments; - reads standard input")
    add("--all", action="store_true", help="every lead in DATABASE_URL")
    add("--request", action="store_true", help="send rescore requests instead; each is answered by one RescoreResult")
    add("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Send the events or requests; returns the exit code."""
    if sum((bool(args.lead_ids), args.file is not None, args.all)) != 1:
        raise SettingsError("leadstream rescore takes either lead ids, or --file, or --all")
    settings = load_settings()
    requests: list[str] = []
    with contextlib.ExitStack() as stack:
        leads, total = _leads(args, settings, stack)
        publisher = stack.enter_context(publishing(settings))
        advance = stack.enter_context(bar("leads", total, shown=not args.json))
        sent = 0
        if args.request:
            ids = (lead_id for lead_id, _ in leads)
            for request in rescore_requests(ids, new_id=lambda: str(uuid.uuid4()), requested_by="leadstream rescore"):
                publisher.send("RescoreRequest", settings.topics.rescore_requests, request["request_id"], request)
                requests.append(request["request_id"])
                sent += len(request["lead_ids"])
                advance(len(request["lead_ids"]))
        else:
            for lead_id, version in leads:
                now = time.time_ns() // 1_000_000
                event = rescore_event(lead_id, version, event_id=str(uuid.uuid4()), now=now)
                publisher.send("LeadChanged", settings.topics.lead_changes, lead_id, event)
                sent += 1
                advance(1)
    if args.json:
        print(json.dumps({"leads": sent, "request_ids": requests}))
    elif args.request:
        print(f"{sent:,} leads in {len(requests):,} requests sent: {', '.join(requests)}")
    else:
        print(f"{sent:,} leads sent to be scored again")
    return 0


def _leads(
    args: argparse.Namespace, settings: Settings, stack: contextlib.ExitStack
) -> tuple[Iterable[tuple[str, int]], int]:
    """The leads with their versions, 0 where only the id is known, and how many there are."""
    if args.all:
        conn = stack.enter_context(connect(settings.need("DATABASE_URL", "--all takes the leads from Postgres")))
        return all_leads(conn), count_leads(conn)
    ids = list(unique(args.lead_ids) if args.lead_ids else read_ids(_lines(args.file)))
    if not ids:
        raise UserError(f"{args.file}: has no lead ids")
    return [(lead_id, 0) for lead_id in ids], len(ids)


def _lines(file: str) -> Iterator[str]:
    try:
        if file == "-":
            yield from sys.stdin
        else:
            with Path(file).open(encoding="utf-8-sig") as lines:
                yield from lines
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8") from None
