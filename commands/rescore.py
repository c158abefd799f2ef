"""`leadstream rescore`: ask for leads to be scored again."""

import argparse
import contextlib
import json
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from commands.progress import bar
from leadstream.errors import SettingsError, UserError

if TYPE_CHECKING:
    from leadstream.settings import Settings


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "rescore",
        help="score given leads, or all, again",
        description="Sends a RESCORE change without state for each lead; the consumer reads the state from Postgres.",
        epilog="example:\n  leadstream rescore --file ids.txt",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("lead_ids", nargs="*", metavar="LEAD_ID", help="a lead's id in the CRM")
    add("--file", metavar="FILE", help="a file with one id a line, # for comments; - reads standard input")
    add("--all", action="store_true", help="every lead in DATABASE_URL")
    add("--request", action="store_true", help="send rescore requests instead; each is answered by one RescoreResult")
    add("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Send the events or requests and say how many."""
    from leadstream.settings import load_settings
    from producer.publish import publishing
    from producer.rescore import rescore_event, rescore_requests

    if sum((bool(arguments.lead_ids), arguments.file is not None, arguments.all)) != 1:
        raise SettingsError("rescore takes either lead ids, or --file, or --all; see `leadstream rescore --help`")
    settings = load_settings()
    topics = settings.topics
    sent, requests = 0, list[str]()
    with contextlib.ExitStack() as stack:
        leads, total = _leads(arguments, settings, stack)
        publisher = stack.enter_context(publishing(settings))
        advance = stack.enter_context(bar("leads", total, shown=not arguments.json))
        if arguments.request:
            ids = (lead_id for lead_id, _ in leads)
            for request in rescore_requests(ids, new_id=lambda: str(uuid.uuid4()), requested_by="leadstream rescore"):
                publisher.send("RescoreRequest", topics.rescore_requests, request["request_id"], request)
                requests.append(request["request_id"])
                sent += len(request["lead_ids"])
                advance(len(request["lead_ids"]))
        else:
            for lead_id, version in leads:
                now = time.time_ns() // 1_000_000
                event = rescore_event(lead_id, version, event_id=str(uuid.uuid4()), now=now)
                publisher.send("LeadChanged", topics.lead_changes, lead_id, event)
                sent += 1
                advance(1)
    if arguments.json:
        print(json.dumps({"leads": sent, "request_ids": requests}, indent=2))
    elif arguments.request:
        print(f"{sent:,} leads sent to be scored again, in {len(requests):,} requests:", *requests, sep="\n")
    else:
        print(f"{sent:,} leads sent to be scored again")
    return 0


def _leads(
    arguments: argparse.Namespace, settings: "Settings", stack: contextlib.ExitStack
) -> tuple[Iterable[tuple[str, int]], int]:
    """The leads with their versions, 0 where only the id is known, and how many there are."""
    from producer.crm import connected
    from producer.rescore import all_leads, count_leads, read_ids, unique

    if arguments.all:
        conn = stack.enter_context(connected(settings.need("DATABASE_URL", "--all takes the leads from Postgres")))
        return all_leads(conn), count_leads(conn)
    ids = list(unique(arguments.lead_ids) if arguments.lead_ids else read_ids(_lines(arguments.file)))
    if not ids:
        raise UserError(f"{arguments.file}: has no lead ids")
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
