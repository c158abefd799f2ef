"""`leadstream rescore`: ask for leads to be scored again."""

import argparse
import contextlib
import json
import sys
import textwrap
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leadstream.cli.progress import bar, positive
from leadstream.errors import SettingsError, UserError

if TYPE_CHECKING:
    from leadstream.explanation import Language
    from leadstream.settings import Settings

MAX_LEADS = 20  # of one reply, on a terminal
UUID_CHARACTERS = 36


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "rescore",
        help="score given leads, or all, again",
        description="Sends a RESCORE change without state for each lead; the consumer reads the\n"
        "state from Postgres. With --request or --wait, sends rescore requests instead,\n"
        "of up to 10,000 leads each, and each is answered by one RescoreResult.",
        epilog="examples:\n"
        "  leadstream rescore --file ids.txt\n"
        "  leadstream rescore lead_1 lead_2 --wait",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("lead_ids", nargs="*", metavar="LEAD_ID", help="a lead's id in the CRM")
    add(
        "--file",
        metavar="FILE",
        help="a file with one id a line, # for comments; - reads standard input",
    )
    add("--all", action="store_true", help="every lead in DATABASE_URL")
    add(
        "--older-than",
        metavar="AGE",
        help="every lead whose score is as of longer ago: 90m, 2h, 1d",
    )
    add("--request", action="store_true", help="send rescore requests, and print their ids")
    add("--wait", action="store_true", help="send requests, wait for their answers and print them")
    add(
        "--allow-fewer-inputs",
        action="store_true",
        help="rescore although Postgres does not bring all inputs of the model",
    )
    add(
        "--timeout",
        type=positive,
        default=120,
        metavar="SECONDS",
        help="how long --wait waits (default: 120)",
    )
    add("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Send the events or requests and print how many; with --wait, print the replies."""
    from leadstream.settings import load_settings

    given = (arguments.lead_ids, arguments.file is not None, arguments.all, arguments.older_than)
    if sum(map(bool, given)) != 1:
        raise SettingsError(
            "rescore takes either lead ids, or --file, or --all, or --older-than; "
            "see `leadstream rescore --help`"
        )
    settings = load_settings()
    if arguments.older_than is not None:
        arguments.lead_ids = _ids_older_than(arguments.older_than, settings)
        if not arguments.lead_ids:
            print(json.dumps({"leads": 0, "request_ids": []}) if arguments.json else "0 leads sent")
            return 0
    if arguments.file is not None:
        arguments.lead_ids = _ids_in(arguments.file)
    if not arguments.allow_fewer_inputs:
        _check_inputs(arguments, settings)
    if arguments.wait:
        return _ask_and_wait(arguments, settings)
    if arguments.request:
        sent, requests = _send_requests(arguments, settings)
        if not arguments.json:
            print(
                f"{sent:,} leads sent to be scored again, in {len(requests):,} requests:",
                *requests,
                sep="\n",
            )
    else:
        sent, requests = _send_changes(arguments, settings), []
        if not arguments.json:
            print(f"{sent:,} leads sent to be scored again")
    if arguments.json:
        print(json.dumps({"leads": sent, "request_ids": requests}, indent=2))
    return 0


def _check_inputs(arguments: argparse.Namespace, settings: "Settings") -> None:
    """Raise UserError if a lead would lose a score that was made with more inputs.

    Without a model store that can be read, or a champion, there is nothing to compare.
    """
    from leadstream.cli.model_inputs import inputs_without_column, leads_to_lose
    from leadstream.errors import LeadstreamError
    from models.registry.versions import open_registry

    if not settings.model_store:
        return
    try:
        registry = open_registry(settings)
        if (version := registry.resolve()) is None:
            return
        absent = inputs_without_column(registry.show(version), settings, ask=True)
    except LeadstreamError:
        return  # it is reported where it is needed
    if not absent:
        return
    if leads := leads_to_lose(registry, absent, settings, arguments.lead_ids or None):
        raise UserError(
            f"{leads:,} of these leads would lose a score that was made with "
            f"{' or '.join(absent)}, which Postgres does not bring: describe it in "
            "LEADSTREAM_FIELDS, or say --allow-fewer-inputs"
        )


def _send_changes(arguments: argparse.Namespace, settings: "Settings") -> int:
    from producer.publish import publishing
    from producer.rescore import rescore_event

    sent = 0
    with contextlib.ExitStack() as stack:
        leads, total = _leads(arguments, settings, stack)
        publisher = stack.enter_context(publishing(settings))
        advance = stack.enter_context(bar("leads", total, visible=not arguments.json))
        for lead_id, version in leads:
            now = time.time_ns() // 1_000_000
            event = rescore_event(lead_id, version, event_id=str(uuid.uuid4()), now=now)
            publisher.send("LeadChanged", settings.topics.lead_changes, lead_id, event)
            sent += 1
            advance(1)
    return sent


def _send_requests(arguments: argparse.Namespace, settings: "Settings") -> tuple[int, list[str]]:
    """Send the requests, and return the number of leads and the request ids.

    The brokers have acknowledged every request then.
    """
    from producer.publish import publishing
    from producer.rescore import rescore_requests

    sent, requests = 0, list[str]()
    with contextlib.ExitStack() as stack:
        leads, total = _leads(arguments, settings, stack)
        publisher = stack.enter_context(publishing(settings))
        advance = stack.enter_context(bar("leads", total, visible=not arguments.json))
        ids = (lead_id for lead_id, _ in leads)
        for request in rescore_requests(
            ids, new_id=lambda: str(uuid.uuid4()), requested_by="leadstream rescore"
        ):
            publisher.send(
                "RescoreRequest", settings.topics.rescore_requests, request["request_id"], request
            )
            requests.append(request["request_id"])
            sent += len(request["lead_ids"])
            advance(len(request["lead_ids"]))
    return sent, requests


def _ask_and_wait(arguments: argparse.Namespace, settings: "Settings") -> int:
    from consumer.current_prediction import AnsweringPredictions, reading_predictions
    from consumer.request_replies import receiving_replies
    from leadstream.explanation import language

    results: list[dict[str, Any]] = []
    words = language(settings.language)
    with receiving_replies(settings) as replies, reading_predictions(settings) as topic:
        predictions = AnsweringPredictions(*topic)
        sent, requests = _send_requests(arguments, settings)
        with bar("answers", len(requests), visible=not arguments.json) as advance:
            for result in replies.receive(requests, arguments.timeout):
                results.append(result)
                advance(1)
        scored = [each["lead_id"] for result in results for each in result["predictions"]]
        details = predictions.read(
            set(requests), scored if arguments.json else scored[: MAX_LEADS * len(results)]
        )
    # Replies from several partitions may arrive in another order than the requests.
    results.sort(key=lambda result: requests.index(result["request_id"]))
    if arguments.json:
        print(
            json.dumps(
                {
                    "leads": sent,
                    "request_ids": requests,
                    "results": results,
                    "predictions": list(details.values()),
                },
                indent=2,
                ensure_ascii=False,
            )
        )
    else:
        for number, result in enumerate(results):
            print(end="\n" if number else "")
            _print_result(result, details, words)
    answered = {result["request_id"] for result in results}
    missing = [request_id for request_id in requests if request_id not in answered]
    if missing:
        which = (
            f"request {missing[0]}"
            if len(requests) == 1
            else f"{len(missing):,} of {len(requests):,} requests"
        )
        raise UserError(
            f"no answer to {which} within {arguments.timeout} s: check that `leadstream run` is up "
            "and not behind, and with `leadstream dead-letters groups` whether it gave up"
        )
    return 0


def _print_result(
    result: dict[str, Any], details: dict[str, dict[str, Any]], words: "Language"
) -> None:
    """Print one reply for 80 columns, with the first leads only."""
    from rich.table import Table
    from rich.text import Text

    from leadstream.cli.rich_output import rich_console
    from leadstream.cli.score_text import format_time

    console = rich_console()
    scored, total = result["successful_predictions"], result["total_processed"]
    moments = [
        details[each["lead_id"]]["occurred_at"]
        for each in result["predictions"]
        if each["lead_id"] in details
    ]
    print(
        f"request {result['request_id']}\n"
        f"{scored:,} of {total:,} leads scored by {result['model_used']}"
    )
    if moments:
        print(f"as of {format_time(max(moments))}")
    scores = [_score_row(each, details.get(each["lead_id"])) for each in result["predictions"]]
    errors = [(each["lead_id"], each["code"], each["detail"]) for each in result["errors"]]
    for rows, headings in (
        (scores, ("lead", "probability", "interval", "grade")),
        (errors, ("lead", "code", "why")),
    ):
        if not rows:
            continue
        table = Table(*headings, box=None, pad_edge=False)
        table.columns[0].overflow = "fold"
        table.columns[0].min_width = min(
            UUID_CHARACTERS, max(len(row[0]) for row in rows[:MAX_LEADS])
        )
        table.columns[1].no_wrap = True
        for row in rows[:MAX_LEADS]:
            table.add_row(*map(Text, row))
        print()
        console.print(table)
        if rows is scores:
            _print_reasons(result, details, words)
        if len(rows) > MAX_LEADS:
            print(f"... and {len(rows) - MAX_LEADS:,} more: --json prints all")


def _score_row(score: dict[str, Any], prediction: dict[str, Any] | None) -> tuple[str, ...]:
    """Return the cells of a lead; a newer record may have taken the place of its prediction."""
    from leadstream.cli.score_text import format_interval, format_share

    start = (score["lead_id"], format_share(score["probability"]))
    if prediction is None:
        return (*start, "-", "-")
    return (*start, format_interval(prediction), prediction["grade"])


def _print_reasons(
    result: dict[str, Any], details: dict[str, dict[str, Any]], words: "Language"
) -> None:
    """Print what speaks for the first leads, and what against them."""
    from leadstream.explanation import explanation

    ids = [each["lead_id"] for each in result["predictions"][:MAX_LEADS]]
    texts = {each: explanation(details[each], words) for each in ids if each in details}
    if not any(texts.values()):
        return
    print("\nreasons, in points of the probability")
    for lead_id, text in texts.items():
        for line in textwrap.wrap(f"{lead_id}: {text}", 78, subsequent_indent="    "):
            print(f"  {line}")


def _leads(
    arguments: argparse.Namespace, settings: "Settings", stack: contextlib.ExitStack
) -> tuple[Iterable[tuple[str, int]], int]:
    """Return the leads with their versions, 0 if only the id is known, and their number."""
    from producer.crm import connected
    from producer.rescore import all_leads, count_leads, unique
    from schemas.description_file import described_crm

    if arguments.all:
        conn = stack.enter_context(
            connected(settings.need("DATABASE_URL", "--all takes the leads from Postgres"))
        )
        crm = described_crm(settings)
        return all_leads(conn, crm), count_leads(conn, crm)
    ids = list(unique(arguments.lead_ids))
    return [(lead_id, 0) for lead_id in ids], len(ids)


def _ids_in(file: str) -> list[str]:
    """Return the ids of a file, or of standard input. Raises UserError if there are none."""
    from producer.rescore import read_ids

    if not (ids := list(read_ids(_lines(file)))):
        raise UserError(f"{file}: has no lead ids")
    return ids


def _ids_older_than(age: str, settings: "Settings") -> list[str]:
    """Return the leads whose current score is as of longer ago. Raises SettingsError."""
    from consumer.current_prediction import leads_as_of_before, reading_predictions
    from leadstream.cli.dead_letters.times import parse_time

    moment = parse_time("--older-than", age) or 0
    with reading_predictions(settings) as (reader, decoder):
        return leads_as_of_before(reader, decoder, moment)


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
