"""Every error code of Kafka and Postgres is about something, and that decides what it costs."""

import psycopg
import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from leadstream.error_table import KAFKA, POSTGRES, About, about_kafka, about_sqlstate
from leadstream.postgres import about_postgres

KAFKA_CODES = {
    name: value
    for name in dir(KafkaError)
    if name.strip("_").isupper() and isinstance(value := getattr(KafkaError, name), int)
}
SQLSTATES = {
    kind.sqlstate: kind
    for kind in vars(psycopg.errors).values()
    if isinstance(kind, type) and issubclass(kind, psycopg.Error) and kind.sqlstate
}


def test_a_code_of_kafka_that_the_table_lacks_would_be_waited_for_whatever_it_is_about() -> None:
    assert len(KAFKA_CODES) > 150
    assert {name for name, code in KAFKA_CODES.items() if code not in KAFKA} == set()


def test_a_sqlstate_that_the_table_lacks_would_cost_a_row_whatever_it_is_about() -> None:
    assert len(SQLSTATES) > 200
    assert {state for state in SQLSTATES if state[:2] not in POSTGRES} == set()


def test_an_entry_that_no_client_knows_is_a_slip_of_the_pen() -> None:
    classes = {state[:2] for state in SQLSTATES} | {"00", "01"}
    assert {each for each in POSTGRES if len(each) == 2} <= classes
    assert {each for each in POSTGRES if len(each) > 2} <= SQLSTATES.keys()


@pytest.mark.parametrize(
    ("name", "about"),
    [
        ("MSG_SIZE_TOO_LARGE", About.RECORD),
        ("INVALID_TIMESTAMP", About.RECORD),
        ("INVALID_RECORD", About.RECORD),
        ("_BAD_COMPRESSION", About.RECORD),
        ("_TRANSPORT", About.SERVER),
        ("NOT_ENOUGH_REPLICAS", About.SERVER),
        ("TOPIC_AUTHORIZATION_FAILED", About.SERVER),
        ("REBALANCE_IN_PROGRESS", About.SERVER),
        ("_FENCED", About.CLIENT),
        ("FENCED_INSTANCE_ID", About.CLIENT),
    ],
)
def test_a_record_that_is_refused_must_not_look_like_brokers_that_are_down(
    name: str, about: About
) -> None:
    assert about_kafka(KAFKA_CODES[name]) is about


@pytest.mark.parametrize("kind", SQLSTATES.values(), ids=SQLSTATES)
def test_an_error_of_postgres_is_about_what_its_sqlstate_says(kind: type[psycopg.Error]) -> None:
    assert about_postgres(kind("sentence")) is about_sqlstate(kind.sqlstate or "")


@given(st.from_regex(r"[0-9A-Z]{5}", fullmatch=True), st.integers(-300, 300))
def test_a_code_that_nobody_knows_yet_must_not_be_a_crash(sqlstate: str, code: int) -> None:
    assert about_sqlstate(sqlstate) in About
    assert about_kafka(code) in About


@pytest.mark.parametrize(
    ("error", "about"),
    [
        (psycopg.DataError("text fields cannot contain NUL"), About.RECORD),
        (UnicodeEncodeError("latin-1", "č", 0, 1, "ordinal not in range"), About.RECORD),
        (psycopg.OperationalError("no answer within 12 s"), About.SERVER),
        (psycopg.InterfaceError("the connection is closed"), About.SERVER),
    ],
)
def test_an_error_of_the_client_without_a_sqlstate_is_about_something_too(
    error: Exception, about: About
) -> None:
    assert about_postgres(error) is about


def test_what_a_row_violates_must_not_look_like_a_database_that_is_down() -> None:
    rows = ["22021", "22P05", "23505", "23514", "44000", "54000", "P0001", "LS001"]
    assert {about_sqlstate(state) for state in rows} == {About.RECORD}
    servers = ["08006", "25006", "40001", "40P01", "53300", "57014", "57P01", "58030", "XX000"]
    assert {about_sqlstate(state) for state in servers} == {About.SERVER}
    assert {about_sqlstate(state) for state in ["42P01", "42501", "42883"]} == {About.SETUP}
