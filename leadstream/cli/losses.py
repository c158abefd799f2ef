"""`leadstream losses`: changes that were deleted before the consumer read them."""

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leadstream.kafka.losses import Loss


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "losses",
        help="list changes that were deleted before the consumer read them, or acknowledge them",
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
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the losses, and acknowledge them if that is asked for."""
    import time

    from confluent_kafka.admin import AdminClient

    from leadstream.kafka.config import client_config
    from leadstream.kafka.connection_check import ConnectionCheck
    from leadstream.kafka.loss_acknowledgments import LossAcknowledgments
    from leadstream.kafka.topic_reader import TopicReader
    from leadstream.log import SILENT
    from leadstream.settings import load_settings

    settings = load_settings()
    ConnectionCheck(settings).check()
    admin = AdminClient(client_config(settings), logger=SILENT)
    acknowledgments = LossAcknowledgments(admin, settings.group_id)
    losses = acknowledgments.losses()
    if arguments.acknowledge:
        at_ms = round(time.time() * 1000)
        places = []
        for topic in (settings.topics.lead_changes, settings.topics.rescore_requests):
            reader = TopicReader(settings, topic)
            places += [(topic, partition) for partition in reader.partitions()]
            reader.close()
        acknowledgments.acknowledge(places, at_ms)
    _show(losses, arguments)
    return 0


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
        print("no change was deleted before it was read, as far as the group knows")
    elif arguments.acknowledge:
        print(f"acknowledged: {len(losses)}")
    else:
        print("`leadstream rescore --all` scores every lead again; then add --acknowledge")
