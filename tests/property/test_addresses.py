"""No part of a password is ever shown, however the address around it is malformed."""

import contextlib
from typing import Any

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leadstream.addresses import masked_url
from leadstream.errors import LeadstreamError, SettingsError
from leadstream.postgres import connect
from leadstream.settings import effective, load_settings
from models.registry.store import Store
from schemas.registry import Registry
from tests.examples import examples

CANARY = "canary"
ADDRESSES = {
    "DATABASE_URL": (
        "postgresql://crm:{}@127.0.0.1:1/crm",
        "postgres://crm:{}@127.0.0.1:1,127.0.0.1:1/crm?sslmode=disable",
        "postgresql:/crm:{}@127.0.0.1:1/crm",
        "postgresql//crm:{}@127.0.0.1:1/crm",
        "postgresql://crm:{}127.0.0.1:1/crm",
        "postgresql://crm:{}@127.0.0.1:one/crm",
        "postgresql://crm:{}@127.0.0.1:1/c@m",
        "postgresql://127.0.0.1:1/crm?user=crm&password={}",
        "host=127.0.0.1 port=1 user=crm password={}",
        "password='{}' host=127.0.0.1 port=1 user=crm",
        "password='{} host=127.0.0.1 port=1 user=crm",
        "crm:{}@127.0.0.1/crm",
        "jdbc:postgresql://127.0.0.1:1/crm?password={}",
    ),
    "SCHEMA_REGISTRY_URL": (
        "http://crm:{}@127.0.0.1:1",
        "http://crm:{}@127.0.0.1:1, http://crm:{}@127.0.0.1:1/path",
        "http:/crm:{}@127.0.0.1:1",
        "http//crm:{}@127.0.0.1:1",
        "crm:{}@127.0.0.1:1",
        "http://crm:{}127.0.0.1:one",
    ),
    "MODEL_STORE": (
        "http://crm:{}@127.0.0.1:1/models",
        "simplecache::http://crm:{}@127.0.0.1:1/models",
        "sftp://crm:{}@127.0.0.1:1/models",
        "nosuch://crm:{}@127.0.0.1:1/models",
        "nosuch:/crm:{}@127.0.0.1:1/models",
        "nosuch//crm:{}@127.0.0.1:1/models",
    ),
    "KAFKA_BOOTSTRAP_SERVERS": ("crm:{}@127.0.0.1:1", "SASL_SSL://crm:{}@127.0.0.1:1"),
}
PASSWORDS = st.lists(
    st.one_of(st.sampled_from("@/:?#%,='\" \\[]&;+\t\né℀１"), st.characters(codec="utf-8")),
    max_size=4,
).map(lambda between: CANARY + CANARY.join(between) + CANARY)


def use(variable: str, value: str) -> None:
    """Let the client of this address fail at it."""
    if variable == "DATABASE_URL":
        connect(value, statement_ms=1000).close()
    elif variable == "SCHEMA_REGISTRY_URL":
        with contextlib.closing(Registry(value, timeout_s=1)) as registry:
            registry.ping()
    elif variable == "MODEL_STORE" and value.startswith("nosuch"):
        Store(value)


@pytest.mark.parametrize(
    ("variable", "address"),
    [(name, each) for name, addresses in ADDRESSES.items() for each in addresses],
)
@settings(max_examples=examples(60), deadline=None)
@example(f"p@{CANARY}")
@example(f"12/{CANARY}@x")
@example(f"a{CANARY}?{CANARY}")
@example(f"%zz{CANARY}")
@example(f"x port={CANARY}")
@example(f"x {CANARY}=x")
@given(password=PASSWORDS)
def test_no_part_of_a_password_is_shown(variable: str, address: str, password: str) -> None:
    if "{}127" in address:  # with its own @ or / nothing tells it from another, correct address
        password = password.replace("@", "").replace("/", "")
    value = address.replace("{}", password)
    assert CANARY not in masked_url(value)
    failure: Exception | None = None
    try:
        loaded = load_settings({variable: value}, None)
        assert CANARY not in str(effective(loaded)) + repr(loaded)
        use(variable, getattr(loaded, variable.lower()))
    except (LeadstreamError, psycopg.Error, ValueError, OSError) as error:
        failure = error
    assert CANARY not in texts_of(failure)
    assert not isinstance(failure, SettingsError) or str(failure).startswith(variable)


def texts_of(error: BaseException | None) -> str:
    """What a trace would show of an error and its causes."""
    texts: list[Any] = []
    while error is not None:
        texts.append(f"{error!r} {error}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(texts)
