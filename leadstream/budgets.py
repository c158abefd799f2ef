"""Time limits that must fit into each other, and the check that they do."""

from collections.abc import Mapping
from dataclasses import dataclass

# One wait inside a Kafka client: Python handles signals only between two of them.
POLL_SECONDS = 0.25
# One call to the brokers within a transaction; it is repeated while the brokers ask for that.
CALL_SECONDS = 2.0
# Get ready to publish: find the brokers and the transaction coordinator.
OPEN_SECONDS = 5.0
# Commit a batch, and undo it if that fails. Each may take one more call.
COMMIT_SECONDS = 10.0
ABORT_SECONDS = 5.0
# Leave the consumer group.
LEAVE_SECONDS = 2.0
# Stop after SIGTERM, before the process ends itself.
SHUTDOWN_SECONDS = 25.0
# Stop after SIGTERM, before Kubernetes or Compose kills the process.
GRACE_PERIOD_SECONDS = 30.0
# The loop may be silent for that long before /healthz fails.
HEALTH_SECONDS = 60.0
# A reader waits that long for a transaction that was left open.
READER_SILENCE_SECONDS = 40.0
# Brokers look for expired transactions that often.
EXPIRY_SCAN_SECONDS = 10.0
# Properties of librdkafka that must fit, with the values in force where the user sets none.
TRANSACTION_TIMEOUT_MS = 10_000
SESSION_TIMEOUT_MS = 10_000
HEARTBEAT_INTERVAL_MS = 2_000
MAX_POLL_INTERVAL_MS = 300_000


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that depend on the user's librdkafka properties, in seconds."""

    transaction: float
    session: float
    heartbeat: float
    poll_interval: float


def longest_commit() -> float:
    """Return the most seconds from the beginning of a transaction to its commit or its abort.

    Sending the offsets waits for two calls; commit and abort may each begin one call at their end.
    """
    return COMMIT_SECONDS + 2 * CALL_SECONDS + ABORT_SECONDS + CALL_SECONDS


def conflict(properties: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the first property that does not fit, and why; None if all limits nest.

    `properties` are the user's librdkafka properties. A value that is not a number is left to the
    client, which refuses it. Raises AssertionError if the limits of the project itself do not nest.
    """
    if not (
        POLL_SECONDS < CALL_SECONDS <= OPEN_SECONDS <= COMMIT_SECONDS
        and longest_commit() + LEAVE_SECONDS < SHUTDOWN_SECONDS < GRACE_PERIOD_SECONDS
        and 2 * OPEN_SECONDS + CALL_SECONDS + longest_commit() < HEALTH_SECONDS
    ):
        raise AssertionError("the time limits in leadstream/budgets.py do not nest")
    limits = Limits(
        _seconds(properties, "transaction.timeout.ms", TRANSACTION_TIMEOUT_MS),
        _seconds(properties, "session.timeout.ms", SESSION_TIMEOUT_MS),
        _seconds(properties, "heartbeat.interval.ms", HEARTBEAT_INTERVAL_MS),
        _seconds(properties, "max.poll.interval.ms", MAX_POLL_INTERVAL_MS),
    )
    longest_transaction = READER_SILENCE_SECONDS - EXPIRY_SCAN_SECONDS
    if limits.transaction < CALL_SECONDS:
        return "transaction.timeout.ms", f"one call to the brokers may take {CALL_SECONDS:g} s"
    if limits.transaction > longest_transaction:
        return (
            "transaction.timeout.ms",
            f"readers wait {READER_SILENCE_SECONDS:g} s for a transaction that a killed process "
            f"left open; set at most {longest_transaction * 1000:.0f}",
        )
    # KIP-848: the brokers decide on session and heartbeat.
    classic = properties.get("group.protocol") != "consumer"
    if classic and limits.heartbeat >= limits.session:
        given = "heartbeat" if "heartbeat.interval.ms" in properties else "session"
        return (
            "heartbeat.interval.ms" if given == "heartbeat" else "session.timeout.ms",
            "heartbeats every "
            f"{limits.heartbeat:g} s do not fit into a session of {limits.session:g} s",
        )
    if limits.poll_interval <= longest_commit():
        return (
            "max.poll.interval.ms",
            f"a commit may take {longest_commit():g} s; "
            f"set more than {longest_commit() * 1000:.0f}",
        )
    return None


def _seconds(properties: Mapping[str, str], key: str, default_ms: int) -> float:
    try:
        return float(properties.get(key, default_ms)) / 1000
    except ValueError:
        return default_ms / 1000
