"""The registry client against a registry over HTTP: what is poison, what is an outage, and what a
person must fix.
"""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from leadstream.errors import Poison, Reason, SettingsError, Transient, UserError
from schemas import schema_files
from schemas.codec import Reader, Writer
from schemas.registry import Registry
from tests.fakes import ManualClock
from tests.registry_server import RegistryState, registry_server

OUTCOME = {"lead_id": "L-1", "converted": True, "decided_at": 1_700_000_000_000}
SCHEMA = schema_files.current_schema("LeadOutcome")
SUBJECT = "crm.lead-outcomes-value"


@pytest.fixture
def server() -> Iterator[RegistryState]:
    with registry_server() as state:
        yield state


@pytest.fixture
def registry(server: RegistryState) -> Iterator[Registry]:
    client = Registry(server.url)
    yield client
    client.close()


def outage(registry: Registry, number: int = 1) -> str:
    with pytest.raises(Transient) as caught:
        registry.schema(number)
    assert caught.value.dependency == "registry"
    return caught.value.detail


def poison(registry: Registry, number: int) -> Poison:
    with pytest.raises(Poison) as caught:
        registry.schema(number)
    return caught.value


def test_what_one_process_writes_another_reads_by_the_id_alone(
    server: RegistryState, registry: Registry
) -> None:
    value = Writer("LeadOutcome", registry, "crm.lead-outcomes").encode(OUTCOME)
    assert value[:5] == b"\x00\x00\x00\x00\x01"
    assert list(server.subjects) == [SUBJECT]
    other = Registry(server.url)
    assert Reader("LeadOutcome", other).decode(value) == OUTCOME
    other.close()


def test_a_schema_is_asked_for_and_registered_once_however_many_records_follow(
    server: RegistryState, registry: Registry
) -> None:
    writer, reader = (
        Writer("LeadOutcome", registry, "crm.lead-outcomes"),
        Reader("LeadOutcome", registry),
    )
    for _ in range(5):
        reader.decode(writer.encode(OUTCOME))
    assert registry.schema_id(SUBJECT, SCHEMA) == 1
    assert [path for _, path, _ in server.requests] == [
        f"/subjects/{SUBJECT}",
        f"/subjects/{SUBJECT}/versions",
    ] + ["/schemas/ids/1"] * (len(server.requests) - 2)
    assert len(server.requests) <= 3


def test_a_schema_that_is_there_is_not_registered_again(
    server: RegistryState, registry: Registry
) -> None:
    first = Registry(server.url)
    first.schema_id(SUBJECT, SCHEMA)
    first.close()
    assert registry.schema_id(SUBJECT, SCHEMA) == 1
    assert [method for method, path, _ in server.requests if path.endswith("/versions")] == ["POST"]


def test_the_schema_comes_back_with_docs_and_logical_types(registry: Registry) -> None:
    assert registry.schema(registry.schema_id(SUBJECT, SCHEMA)) == SCHEMA


def test_an_id_that_the_registry_lacks_is_poison(registry: Registry) -> None:
    error = poison(registry, 7)
    assert (error.reason, error.stage) == (Reason.UNKNOWN_SCHEMA, "decode")
    assert "7" in error.detail


def test_a_flood_of_one_unknown_id_asks_once_and_later_asks_again(server: RegistryState) -> None:
    clock = ManualClock()
    registry = Registry(server.url, clock=clock)
    for _ in range(3):
        poison(registry, 1)
    assert len(server.requests) == 1
    server.schemas.append(json.dumps(SCHEMA))
    clock.now += 11
    assert registry.schema(1) == SCHEMA
    registry.close()


@pytest.mark.parametrize("number", [0, 2**31, 2**32 - 1])
def test_an_id_that_no_registry_can_have_is_poison_without_a_question(
    server: RegistryState, registry: Registry, number: int
) -> None:
    assert poison(registry, number).reason is Reason.UNKNOWN_SCHEMA
    assert server.requests == []


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503, 504])
def test_an_error_of_the_registry_is_an_outage_and_not_poison(
    server: RegistryState, registry: Registry, status: int
) -> None:
    server.failure, server.answer = status, b'{"error_code": 50001, "message": "no"}'
    assert str(status) in outage(registry)
    assert len(server.requests) == 1
    server.failure = server.answer = None
    server.schemas.append(json.dumps(SCHEMA))
    assert registry.schema(1) == SCHEMA


@pytest.mark.parametrize(
    "answer", [b"<html>Not Found</html>", b"{}", b'{"error_code": 404, "message": "HTTP 404"}', b""]
)
def test_a_404_of_some_other_server_is_a_wrong_address_and_not_poison(
    server: RegistryState, registry: Registry, answer: bytes
) -> None:
    server.failure, server.answer = 404, answer
    assert "SCHEMA_REGISTRY_URL" in outage(registry)


@pytest.mark.parametrize("answer", [b"<html>hello</html>", b"{", b"\xff"])
def test_an_answer_that_is_no_json_is_an_outage(
    server: RegistryState, registry: Registry, answer: bytes
) -> None:
    server.answer = answer
    assert "JSON" in outage(registry)


def test_a_refused_connection_is_an_outage() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    registry = Registry(f"http://127.0.0.1:{port}")
    assert "cannot be reached" in outage(registry)
    registry.close()


def test_a_silent_registry_is_an_outage_within_the_timeout(server: RegistryState) -> None:
    server.hold = threading.Event()
    registry = Registry(server.url, timeout_s=0.1)
    assert outage(registry) == "it gave no answer within 0.1 s"
    server.hold.set()
    registry.close()


def test_a_schema_of_another_language_or_of_no_json_is_poison(
    server: RegistryState, registry: Registry
) -> None:
    server.answer = b'{"schema": "message A {}", "schemaType": "PROTOBUF"}'
    assert poison(registry, 1).reason is Reason.UNKNOWN_SCHEMA
    server.answer = b'{"schema": "{"}'
    assert poison(registry, 2).reason is Reason.DECODE_FAILED


@pytest.mark.parametrize("status", [409, 422])
def test_a_refused_registration_is_for_a_person_to_mend(
    server: RegistryState, registry: Registry, status: int
) -> None:
    server.failure, server.answer = (
        status,
        b'{"error_code": 409, "message": "incompatible with version 1"}',
    )
    with pytest.raises(
        UserError, match=f"refuses the schema of {SUBJECT}.*incompatible with version 1"
    ):
        registry.schema_id(SUBJECT, SCHEMA)


def test_an_incompatible_schema_is_refused_by_subject(
    server: RegistryState, registry: Registry
) -> None:
    server.refuse.add(SUBJECT)
    with pytest.raises(UserError, match="incompatible"):
        registry.schema_id(SUBJECT, SCHEMA)


def test_credentials_are_sent_but_never_shown(server: RegistryState) -> None:
    registry = Registry(server.url.replace("http://", "http://ann:s%40cret@"))
    assert poison(registry, 3).reason is Reason.UNKNOWN_SCHEMA
    assert server.requests[0][2] == "Basic YW5uOnNAY3JldA=="
    server.failure = 401
    displayed = outage(registry, 4)
    assert "SCHEMA_REGISTRY_URL" in displayed
    assert "cret" not in displayed
    registry.close()
    dead = Registry("http://ann:s%40cret@127.0.0.1:1")
    with pytest.raises(Transient) as caught:
        dead.schema(1)
    assert "cret" not in f"{caught.value} {caught.value.__context__!r} {caught.value.__context__}"
    dead.close()


def test_https_is_trusted_by_its_authority_alone_and_the_credentials_go_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    with registry_server(context) as state:
        stranger = Registry(state.url)
        assert "its certificate cannot be trusted" in (printed := outage(stranger))
        assert "SSL_CERT_FILE" in printed
        stranger.close()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        registry = Registry(state.url.replace("https://", "https://ann:s%40cret@"))
        assert registry.schema_id(SUBJECT, SCHEMA) == 1
        assert {authorization for _, _, authorization in state.requests} == {
            "Basic YW5uOnNAY3JldA=="
        }
        registry.close()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    with pytest.raises(SettingsError, match="SSL_CERT_FILE"):
        Registry(state.url)


def test_a_second_address_is_asked_where_the_first_is_dead(server: RegistryState) -> None:
    registry = Registry(f"http://127.0.0.1:1, {server.url}/")
    assert registry.schema_id(SUBJECT, SCHEMA) == 1
    registry.close()


@pytest.mark.parametrize(
    "url", ["localhost:8081", "kafka://host", "http://", "mock://x", "http://ok,"]
)
def test_an_address_that_is_none_names_the_setting(url: str) -> None:
    with pytest.raises(SettingsError, match="SCHEMA_REGISTRY_URL"):
        Registry(url)


def test_closing_twice_is_harmless(registry: Registry) -> None:
    registry.close()
    registry.close()
