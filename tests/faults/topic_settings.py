"""`python -m tests.faults.topic_settings BOOTSTRAP TOPIC NAME=VALUE` changes a topic's settings.

In a process of its own: librdkafka may abort one that asks for this while a broker goes away.
"""

import subprocess
import sys

# not in its __all__
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from leadstream.log import SILENT
from tests.integration.running import until

ASK_SECONDS = 5


def change_settings(bootstrap: str, topic: str, settings: dict[str, str]) -> None:
    """Change settings of a topic, as often as it takes while brokers are away."""
    pairs = [f"{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "tests.faults.topic_settings", bootstrap, topic, *pairs]

    def done() -> bool:
        ran = subprocess.run(command, capture_output=True, check=False, timeout=60)
        return ran.returncode == 0

    until(done, f"{topic} takes its settings", 120)


def main(bootstrap: str, topic: str, *pairs: str) -> None:
    """Raises KafkaException where a broker does not answer."""
    admin = AdminClient({"bootstrap.servers": bootstrap}, logger=SILENT)
    admin.list_topics(timeout=ASK_SECONDS)
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, _, value in (pair.partition("=") for pair in pairs)
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
    asked = admin.incremental_alter_configs([resource], request_timeout=ASK_SECONDS)
    asked[resource].result(ASK_SECONDS + 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
