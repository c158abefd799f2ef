"""`leadstream topics create` and `check`: the topic table of the contract on a real cluster."""

import argparse
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leadstream.settings import Settings

TIMEOUT_SECONDS = 15.0
_CONFIGS = 'kafka-configs.sh --bootstrap-server "$KAFKA_BOOTSTRAP_SERVERS" --alter'


@dataclass(frozen=True, slots=True)
class TopicDifference:
    """A difference between a topic and the contract."""

    topic: str
    what: str
    is_now: str | None
    should_be: str

    @property
    def longer(self) -> bool:
        """Return whether the topic only keeps records longer, at the cost of disk space."""
        return (
            self.what == "retention.ms"
            and self.is_now is not None
            and _longer(self.is_now, self.should_be)
        )

    def sentence(self) -> str:
        """Return the present and the expected value."""
        if self.is_now is None:
            return f"{self.topic}: missing"
        return f"{self.topic}: {self.what} is {self.is_now}, should be {self.should_be}"

    @property
    def fix(self) -> str:
        """Return the command or the steps that fix the topic."""
        if self.is_now is None:
            return "leadstream topics create"
        if self.what == "partitions":
            return "partitions cannot be removed: delete the topic, then leadstream topics create"
        return f"{_CONFIGS} --topic {self.topic} --add-config {self.what}={self.should_be}"


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser("topics", help="create missing topics, or check those that exist")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = actions.add_parser(
        "create",
        help="create missing topics; change no existing one",
        epilog="example:\n  leadstream topics create --partitions 6 --replication 3",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    create.add_argument(
        "--partitions", type=int, default=6, help="partitions of each new topic (default 6)"
    )
    create.add_argument(
        "--replication",
        type=int,
        default=-1,
        help="replicas of each new topic (default: the broker's)",
    )
    create.add_argument("--json", action="store_true", help="print one JSON object")
    create.set_defaults(func=create_topics)
    check = actions.add_parser(
        "check",
        help="print the differences to the contract; exit 1 if there are any",
        epilog="example:\n  leadstream topics check",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.set_defaults(func=check_topics)


def create_topics(arguments: argparse.Namespace) -> int:
    """Create the missing topics, and print them."""
    from leadstream.errors import SettingsError
    from leadstream.settings import load_settings

    if arguments.partitions < 1:
        raise SettingsError(f"--partitions {arguments.partitions}: must be 1 or more")
    report = create_missing(load_settings(), arguments.partitions, arguments.replication)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        for name in sorted(report["created"] + report["existing"]):
            print(f"{'created' if name in report['created'] else 'exists '}  {name}")
    return 0


def create_missing(
    settings: "Settings", partitions: int, replication: int = -1
) -> dict[str, list[str]]:
    """Create the missing topics; return the names of the `created` and the `existing` ones."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # not in its __all__

    from leadstream.errors import UserError, error_text
    from leadstream.kafka.topics import CONFIGS, SINGLE_PARTITION

    admin, names = _connect(settings)
    single = {names[field] for field in SINGLE_PARTITION}
    existing = _existing(admin)
    wanted = {
        names[field]: config for field, config in CONFIGS.items() if names[field] not in existing
    }
    created = (
        admin.create_topics(
            [
                NewTopic(name, 1 if name in single else partitions, replication, config=config)
                for name, config in wanted.items()
            ],
            operation_timeout=TIMEOUT_SECONDS,
            request_timeout=TIMEOUT_SECONDS,
        )
        if wanted
        else {}
    )
    for name, future in created.items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise UserError(f"topic {name} could not be created: {error_text(error)}") from None
    return {"created": sorted(wanted), "existing": sorted(set(names.values()) - wanted.keys())}


def check_topics(arguments: argparse.Namespace) -> int:
    """Print the differences to the contract; return 1 if there are any."""
    from leadstream.settings import load_settings

    differences = find_differences(load_settings())
    if arguments.json:
        rows = [asdict(difference) | {"mend": difference.fix} for difference in differences]
        print(json.dumps(rows, indent=2))
    for difference in [] if arguments.json else differences:
        print(difference.sentence())
    # Print each command once, on a line of its own, ready to copy.
    for fix in (
        [] if arguments.json else dict.fromkeys(difference.fix for difference in differences)
    ):
        print(f"  {fix}")
    if not differences and not arguments.json:
        print("all topics are as the contract says")
    return 1 if differences else 0


def find_differences(settings: "Settings") -> list[TopicDifference]:
    """Return the differences between the topics of the cluster and the contract."""
    from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]  # not in its __all__

    from leadstream.kafka.topics import CONFIGS, SINGLE_PARTITION, SMALLER_IS_FINE

    admin, names = _connect(settings)
    existing = _existing(admin)
    differences = [
        TopicDifference(names[field], "topic", None, "present")
        for field in CONFIGS
        if names[field] not in existing
    ]
    # With as many partitions as changes, requests could move all changes to one process.
    differences += [
        TopicDifference(names[field], "partitions", str(existing[names[field]]), "1")
        for field in sorted(SINGLE_PARTITION)
        if existing.get(names[field], 1) > 1
    ]
    present = {
        names[field]: config for field, config in CONFIGS.items() if names[field] in existing
    }
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in present]
    answers = admin.describe_configs(asked, request_timeout=TIMEOUT_SECONDS) if asked else {}
    for resource, future in answers.items():
        actual = future.result()
        for key, should_be in present[resource.name].items():
            is_now = actual[key].value
            # Larger letters and longer shadow predictions are allowed, see `longer`.
            larger_is_fine = key == "max.message.bytes" or (resource.name, key) == (
                names["shadow_predictions"],
                "retention.ms",
            )
            smaller_is_fine = key in SMALLER_IS_FINE and not _longer(is_now, should_be)
            is_allowed = (
                is_now == should_be
                or smaller_is_fine
                or (larger_is_fine and _longer(is_now, should_be))
            )
            if not is_allowed:
                differences.append(TopicDifference(resource.name, key, is_now, should_be))
    return differences


def _connect(settings: "Settings") -> tuple[Any, dict[str, str]]:
    from confluent_kafka.admin import AdminClient

    from leadstream.kafka.config import client_config
    from leadstream.kafka.connection_check import ConnectionCheck
    from leadstream.log import client_logger, configure

    configure(settings)
    ConnectionCheck(settings).check()
    return AdminClient(client_config(settings), logger=client_logger()), asdict(settings.topics)


def _longer(is_now: str, should_be: str) -> bool:
    return is_now == "-1" or int(is_now) > int(should_be)


def _existing(admin: Any) -> dict[str, int]:
    """Return the topics of the cluster with their numbers of partitions."""
    from confluent_kafka import KafkaException

    from leadstream.errors import UserError, error_text

    try:
        topics = admin.list_topics(timeout=TIMEOUT_SECONDS).topics
    except KafkaException as error:
        raise UserError(
            f"the brokers do not answer ({error_text(error)}): check KAFKA_BOOTSTRAP_SERVERS and "
            "that Kafka is up, or run `leadstream doctor`"
        ) from None
    return {name: len(topic.partitions) for name, topic in topics.items()}
