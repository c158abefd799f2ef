"""`leadstream learn`: from outcomes to a better model, through a trial and the gate."""

import argparse
from typing import TYPE_CHECKING

from leadstream.cli.progress import not_negative, positive
from leadstream.cli.retrain import add_minimums
from leadstream.cli.training_history import add_history

if TYPE_CHECKING:
    from consumer.outcomes.learn_service import ServiceOptions

EPILOG = """examples:
  leadstream learn --propose               # a person promotes
  leadstream learn --trial 90 --every 30

It trains when `follow` or `run` asks for it, sets the new version as the challenger, and
promotes it through the gate once the outcomes prove that it is better.
`leadstream models retire` ends a trial at any time.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "learn",
        help="train from the history when it is asked for, try the model, and promote it if it is "
        "better",
        description="Take requests for training, retrain the champion from the history, try the "
        "result as challenger, and promote it through the gate if the outcomes prove it better.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--propose", action="store_true", help="stop before the promotion, for a person"
    )
    parser.add_argument(
        "--trial",
        type=_days,
        default=120.0,
        metavar="DAYS",
        help="end a trial that decided nothing in so many days (120)",
    )
    parser.add_argument(
        "--rest",
        type=not_negative,
        default=7.0,
        metavar="DAYS",
        help="wait so many days after an attempt or a promotion (7)",
    )
    parser.add_argument(
        "--every",
        type=not_negative,
        default=0.0,
        metavar="DAYS",
        help="train also without a request, after so many days (0 = never)",
    )
    parser.add_argument(
        "--look",
        type=positive,
        default=600,
        metavar="SECONDS",
        help="between two looks at the outcomes of a trial (600)",
    )
    add_minimums(parser)
    add_history(parser, since=False)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Learn until SIGTERM or SIGINT."""
    from leadstream.process.signals import leave_on_signals

    leave_on_signals()
    from leadstream.cli.history_extra import PURPOSE, need_extra
    from leadstream.settings import load_settings

    settings = load_settings()
    settings.need("KAFKA_BOOTSTRAP_SERVERS", "name the brokers, for example localhost:9092")
    settings.need("MODEL_STORE", "name the folder or URL that `leadstream train` writes models to")
    root = settings.need("LEADSTREAM_HISTORY", PURPOSE)
    need_extra("duckdb")
    from leadstream.kafka.connection_check import ConnectionCheck

    access = ConnectionCheck(settings)
    from consumer.outcomes import learn_service

    access.check()
    learn_service.learn(settings, _options(args), root)
    return 0


def _options(args: argparse.Namespace) -> "ServiceOptions":
    from consumer.outcomes.learn_service import ServiceOptions
    from consumer.outcomes.learner import LearnOptions

    words = [f"--least-leads={args.least_leads}", f"--least-conversions={args.least_conversions}"]
    words.append(f"--max-rows={args.max_rows}")
    if args.allow_gaps:
        words.append("--allow-gaps")
    return ServiceOptions(
        LearnOptions(args.trial, args.rest, args.every, args.propose), args.look, words
    )


def _days(text: str) -> float:
    days = not_negative(text)
    if days == 0:
        raise argparse.ArgumentTypeError("a trial needs more than 0 days")
    return days
