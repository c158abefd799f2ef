"""The topics of the contract: their names, and the settings that they are created with."""

from dataclasses import dataclass, fields

DAY_MS = 86_400_000
LETTER_DAYS = 30
# An erased lead's older predictions are gone after so many days.
COMPACTION_DAYS = 7
# Kafka deletes whole segments, so a record may stay this much longer than its topic's retention.
_SEGMENT = {"segment.ms": str(DAY_MS)}
# A topic may have less of these than the contract says: then an erased lead is gone earlier.
SMALLER_IS_FINE = {"segment.ms", "max.compaction.lag.ms"}


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
    refresh_marks: str = "crm.refresh-marks"


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


def _deleted(days: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(days * DAY_MS), **_SEGMENT}


CONFIGS: dict[str, dict[str, str]] = {
    "lead_changes": _deleted(7),
    "rescore_requests": _deleted(1),
    # A null is kept as long as dead letters are: triage sees from it that a lead was erased.
    "lead_predictions": {
        "cleanup.policy": "compact",
        "delete.retention.ms": str(LETTER_DAYS * DAY_MS),
        "max.compaction.lag.ms": str(COMPACTION_DAYS * DAY_MS),
    },
    "rescore_results": _deleted(1),
    "dead_letters": {**_deleted(LETTER_DAYS), "max.message.bytes": _LETTER_BYTES},
    "dead_letter_audit": {"cleanup.policy": "compact"},
    "lead_outcomes": _deleted(365),
    "shadow_predictions": _deleted(7),
    "retrain_requests": {"cleanup.policy": "compact"},
    "relay_positions": {"cleanup.policy": "compact"},
    "refresh_marks": _deleted(7),
}
