import pytest

from leadstream import budgets
from leadstream.budgets import conflict, longest_commit
from leadstream.settings import load_settings, unfit_limits


def test_the_limits_of_the_project_nest() -> None:
    assert conflict({}) is None
    assert longest_commit() + budgets.LEAVE_SECONDS < budgets.SHUTDOWN_SECONDS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COMMIT_SECONDS", 20.0),
        ("SHUTDOWN_SECONDS", 30.0),
        ("CALL_SECONDS", 6.0),
        ("HEALTH_SECONDS", 20.0),
        ("POLL_SECONDS", 3.0),
    ],
)
def test_a_limit_that_outgrows_the_one_around_it_is_found_at_the_next_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    monkeypatch.setattr(budgets, name, value)
    with pytest.raises(AssertionError, match="do not nest"):
        conflict({})


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("TRANSACTION_TIMEOUT_MS", "500", "one call to the brokers may take 2 s"),
        ("TRANSACTION_TIMEOUT_MS", "900000", "set at most 30000"),
        ("SESSION_TIMEOUT_MS", "1500", "heartbeats every 2 s do not fit"),
        ("HEARTBEAT_INTERVAL_MS", "10000", "into a session of 10 s"),
        ("MAX_POLL_INTERVAL_MS", "15000", "set more than 21000"),
    ],
)
def test_a_property_that_breaks_a_limit_is_one_sentence_that_names_it(
    variable: str, value: str, why: str
) -> None:
    name = f"LEADSTREAM_KAFKA_{variable}"
    [sentence] = unfit_limits(load_settings({name: value}, None).kafka)
    assert sentence.startswith(f"{name}={value} does not fit: ")
    assert why in sentence


def test_properties_that_fit_are_accepted_and_others_are_left_to_the_client() -> None:
    fitting = {"session.timeout.ms": "1500", "heartbeat.interval.ms": "300"}
    assert conflict(fitting) is None
    assert conflict({"transaction.timeout.ms": "soon"}) is None
    assert conflict({"group.protocol": "consumer", "heartbeat.interval.ms": "12000"}) is None
