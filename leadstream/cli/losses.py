"""`leadstream losses`: changes that were deleted before the consumer read them."""

import argparse
import json
from typing import TYPE_CHECKING

from leadstream.cli.service import group_id_for

if TYPE_CHECKING:
    from leadstream.kafka.losses import Loss
    from leadstream.settings import Settings


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "losses",
        help="list changes that were deleted before a service read them, or acknowledge them",
        description="List the offsets that a topic's retention deleted before the group read\n"
        "them, until they are acknowledged. Score the leads again first, then acknowledge.",
        epilog="example:\n  leadstream rescore --all\n  leadstream losses --acknowledge",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--acknowledge",
        action="store_true",
        help="end the warnings about what is listed; running consumers follow within a minute",
    )
    parser.add_argument(
        "--of",
        choices=["run", "sink", "translate"],
        default="run",
        help="the service that could not read them (default run)",
    )
    parser.add_argument(
        "--from",
        dest="from_topic",
        metavar="TOPIC",
        default="crm.foreign",
        help="with --of translate: the topic that it reads (default crm.foreign)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the losses, and acknowledge them if that is asked for."""
    import time

    from leadstream.kafka.connection_check import ConnectionCheck
    from leadstream.kafka.loss_acknowledgments import LossAcknowledgments
    from leadstream.settings import load_settings

    settings = load_settings()
    ConnectionCheck(settings).check()
    group, topics = _read_by(arguments, settings)
    acknowledgments = LossAcknowledgments(settings, group, topics)
    losses = acknowledgments.losses()
    if arguments.acknowledge:
        acknowledgments.acknowledge(round(time.time() * 1000))
    _show(losses, arguments)
    return 0


def _read_by(arguments: argparse.Namespace, settings: "Settings") -> tuple[str, list[str]]:
    """Return the group of a service, and the topics that it reads."""
    topics = settings.topics
    match arguments.of:
        case "sink":
            return group_id_for("sink", settings), [topics.lead_predictions]
        case "translate":
            return group_id_for("translate", settings), [arguments.from_topic]
        case _:
            return settings.group_id, [topics.lead_changes, topics.rescore_requests]


def _show(losses: "list[Loss]", arguments: argparse.Namespace) -> None:
    from datetime import UTC, datetime

    if arguments.json:
        entries = [
            {
                "topic": loss.topic,
                "partition": loss.partition,
                "first": loss.first,
                "last": loss.last,
                "noticed_at": loss.noticed_at,
            }
            for loss in losses
        ]
        print(json.dumps({"losses": entries, "acknowledged": arguments.acknowledge}, indent=2))
        return
    for loss in losses:
        at = datetime.fromtimestamp(loss.noticed_at / 1000, UTC)
        print(f"{loss.sentence()}, noticed {at:%Y-%m-%d %H:%M:%S} UTC")
    if not losses:
        print("nothing was deleted before it was read, as far as the group knows")
    elif arguments.acknowledge:
        print(f"acknowledged: {len(losses)}")
    else:
        print("`leadstream rescore --all` scores every lead again; then add --acknowledge")
