"""`leadstream lead`: the current score of one lead, in words."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from leadstream.cli.progress import positive, working

if TYPE_CHECKING:
    from consumer.current_prediction import LeadRecord
    from leadstream.explanation import Language


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "lead",
        help="show the current score of one lead, and why",
        description="Show the newest prediction of a lead in the predictions topic. One partition\n"
        "is read, that of the lead's id.",
        epilog="examples:\n  leadstream lead lead_1_2783\n  leadstream lead lead_1_2783 --json",
    )
    parser.add_argument("lead_id", metavar="LEAD_ID", help="a lead's id in the CRM")
    parser.add_argument(
        "--timeout",
        type=positive,
        default=60,
        metavar="SECONDS",
        help="how long the partition may take to read (default: 60)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the score. Raises UserError if the lead has none."""
    from consumer.current_prediction import newest_record, reading_predictions
    from leadstream.errors import UserError
    from leadstream.explanation import language
    from leadstream.settings import load_settings

    settings, lead_id = load_settings(), arguments.lead_id
    words = language(settings.language)
    topic = settings.topics.lead_predictions
    with (
        reading_predictions(settings) as (reader, decoder),
        working(f"reading {topic}", lines=False),
    ):
        record = newest_record(reader, decoder, lead_id, arguments.timeout)
    if record is None:
        raise UserError(
            f"lead {lead_id} has no score in {topic}: check the id, or score it now with "
            f"`leadstream rescore {lead_id} --wait`"
        )
    if arguments.json:
        print(json.dumps(_as_json(lead_id, record), indent=2, ensure_ascii=False))
    else:
        _print(lead_id, record, words)
    return 0


def _as_json(lead_id: str, record: "LeadRecord") -> dict[str, Any]:
    return {
        "lead_id": lead_id,
        "erased": record.prediction is None,
        "prediction": record.prediction,
        "written_at": record.at,
        "partition": record.partition,
        "offset": record.offset,
    }


def _print(lead_id: str, record: "LeadRecord", words: "Language") -> None:
    from leadstream.cli.score_text import format_time, score_rows

    if record.prediction is None:
        print(f"{lead_id} was erased at {format_time(record.at)}: it has no score.")
        return
    _print_rows(lead_id, score_rows(record.prediction, words))


def _print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    import shutil
    import textwrap

    print(title)
    width = shutil.get_terminal_size().columns
    for name, text in rows:
        start = f"  {name:<11}  "
        print(textwrap.fill(start + text, width, subsequent_indent=" " * len(start)))
