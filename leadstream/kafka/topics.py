"""The topics of the contract: their names, and the settings that they are created with."""

from dataclasses import dataclass, fields

DAY_MS = 86_400_000
LETTER_DAYS = 30


@dataclass(frozen=True, slots=True)
class Topics:
    """The topic names in force."""

    lead_changes: str = "crm.lead-changes"
    rescore_requests: str = "crm.rescore-requests"
    lead_predictions: str = "crm.lead-predictions"
    rescore_results: str = "crm.rescore-results"
    dead_letters: str = "crm.lead-changes.dlq"
    dead_letter_audit: str = "crm.lead-changes.dlq.audit"
    lead_outcomes: str = "crm.lead-outcomes"
    shadow_predictions: str = "crm.lead-predictions.shadow"
    retrain_requests: str = "crm.retrain-requests"
    relay_positions: str = "crm.relay-positions"


def variable(topic: str) -> str:
    """Return the environment variable that renames a topic.

    It is the topic's default name without `crm.`, in capitals.
    """
    name = Topics.__dataclass_fields__[topic].default
    return "LEADSTREAM_TOPIC_" + str(name).removeprefix("crm.").upper().replace("-", "_").replace(
        ".", "_"
    )


VARIABLES = {variable(field.name): field.name for field in fields(Topics)}

# A dead letter is its original and up to 17 headers; a broker's default limit is 1,048,588 bytes.
_LETTER_BYTES = str(2 * 1_048_588)

# Kafka assigns partitions by number. With as many partitions of requests as of changes, one process
# could get all changes and another all requests. Each relay has one position.
SINGLE_PARTITION = {"rescore_requests", "relay_positions"}

CONFIGS: dict[str, dict[str, str]] = {
    "lead_changes": {"cleanup.policy": "delete", "retention.ms": str(7 * DAY_MS)},
    "rescore_requests": {"cleanup.policy": "delete", "retention.ms": str(DAY_MS)},
    # A null is kept as long as dead letters are: triage sees from it that a lead was erased.
    "lead_predictions": {
        "cleanup.policy": "compact",
        "delete.retention.ms": str(LETTER_DAYS * DAY_MS),
    },
    "rescore_results": {"cleanup.policy": "delete", "retention.ms": str(DAY_MS)},
    "dead_letters": {
        "cleanup.policy": "delete",
        "retention.ms": str(LETTER_DAYS * DAY_MS),
        "max.message.bytes": _LETTER_BYTES,
    },
    "dead_letter_audit": {"cleanup.policy": "compact"},
    "lead_outcomes": {"cleanup.policy": "delete", "retention.ms": str(365 * DAY_MS)},
    "shadow_predictions": {"cleanup.policy": "delete", "retention.ms": str(7 * DAY_MS)},
    "retrain_requests": {"cleanup.policy": "compact"},
    "relay_positions": {"cleanup.policy": "compact"},
}
