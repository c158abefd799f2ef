"""Which broker and which Postgres the local ground takes, and how it refuses."""

import contextlib
import socket
from collections.abc import Iterator, Mapping

import pytest

from leadstream.errors import SettingsError, UserError
from leadstream.local import broker, postgres
from leadstream.local.broker import MOCK_LIMITS, Broker, local_broker
from leadstream.local.containers import require_engine, run_container
from leadstream.local.postgres import Postgres, local_postgres
from leadstream.local.process import Say, free_ports


def refusing(*_: object) -> contextlib.AbstractContextManager[Broker]:
    raise UserError("it is not here.")


@contextlib.contextmanager
def serving(_say: Say, _environ: Mapping[str, str]) -> Iterator[Broker]:
    yield Broker("127.0.0.1:1", "kafka")


@pytest.fixture
def listener() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_given_broker_that_answers_is_taken_before_all_others(listener: str) -> None:
    lines: list[str] = []
    dead = f"127.0.0.1:{free_ports(1)[0]}"
    with local_broker(
        say=lines.append, environ={"KAFKA_BOOTSTRAP_SERVERS": f"{dead},{listener}"}
    ) as given:
        assert given == Broker(f"{dead},{listener}", "given", transactions=True, limits=None)
    assert len(lines) == 1


def test_a_given_broker_that_does_not_answer_is_an_error_and_never_replaced_by_another() -> None:
    dead = f"127.0.0.1:{free_ports(1)[0]}"
    with (
        pytest.raises(UserError, match=f"KAFKA_BOOTSTRAP_SERVERS is {dead}, and no broker answers"),
        local_broker(say=list, environ={"KAFKA_BOOTSTRAP_SERVERS": dead}),
    ):
        pass


def test_an_address_without_a_port_names_the_setting() -> None:
    with (
        pytest.raises(SettingsError, match="KAFKA_BOOTSTRAP_SERVERS has 'kafka'"),
        local_broker(say=list, environ={"KAFKA_BOOTSTRAP_SERVERS": "kafka"}),
    ):
        pass


def test_an_unknown_kind_names_the_setting_and_the_kinds() -> None:
    with (
        pytest.raises(
            SettingsError,
            match="LEADSTREAM_LOCAL_BROKER is 'rabbit': set it to docker, kafka or mock",
        ),
        local_broker(say=list, environ={"LEADSTREAM_LOCAL_BROKER": "rabbit"}),
    ):
        pass


def test_a_kind_that_was_asked_for_is_refused_rather_than_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(broker._STARTS, "docker", refusing)
    with (
        pytest.raises(
            UserError, match="'docker' was requested, but is not available: it is not here"
        ),
        local_broker(say=list, environ={"LEADSTREAM_LOCAL_BROKER": "docker"}),
    ):
        pass


def test_the_kind_that_was_asked_for_wins_over_a_given_broker(listener: str) -> None:
    environ = {"KAFKA_BOOTSTRAP_SERVERS": listener, "LEADSTREAM_LOCAL_BROKER": "mock"}
    with local_broker(say=list, environ=environ) as mock:
        assert mock.kind == "mock"
        assert mock.bootstrap != listener


def test_the_setting_picks_a_kind_though_an_earlier_one_would_serve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(broker._STARTS, "docker", serving)
    with local_broker(say=list, environ={"LEADSTREAM_LOCAL_BROKER": "mock"}) as taken:
        assert taken.kind == "mock"


def test_a_kind_that_cannot_be_had_is_said_and_the_next_one_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    monkeypatch.setitem(broker._STARTS, "docker", refusing)
    monkeypatch.setitem(broker._STARTS, "kafka", serving)
    with local_broker(say=lines.append, environ={}) as taken:
        assert taken.kind == "kafka"
    assert lines == ["Broker (docker): not available, it is not here.", "Broker (kafka): stopped"]


def test_the_mock_says_in_one_line_what_it_cannot_do() -> None:
    lines: list[str] = []
    with local_broker("mock", say=lines.append) as mock:
        assert (mock.transactions, mock.limits) == (False, MOCK_LIMITS)
    assert MOCK_LIMITS in lines[0]
    assert "at-least-once" in MOCK_LIMITS
    assert "\n" not in MOCK_LIMITS


@pytest.mark.parametrize(
    "host", ["tcp://127.0.0.1:1", "unix:///nowhere/docker.sock", "carrier-pigeon://home"]
)
def test_a_docker_command_without_an_engine_is_not_taken_for_one(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    pytest.importorskip("testcontainers")
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(UserError, match="no Docker engine answers"):
        require_engine()


def test_a_container_that_does_not_start_is_removed_and_told() -> None:
    pytest.importorskip("testcontainers")
    done: list[str] = []

    class Container:
        def start(self) -> None:
            raise TimeoutError("not ready in 30 s")

        def stop(self) -> None:
            done.append("stopped")

    with (
        pytest.raises(UserError, match="the Kafka container did not start: not ready"),
        run_container(Container(), "Kafka"),
    ):
        pass
    assert done == ["stopped"]


def test_a_database_url_that_does_not_connect_is_an_error_without_the_password() -> None:
    url = f"postgresql://someone:geheim@127.0.0.1:{free_ports(1)[0]}/crm"
    with (
        pytest.raises(UserError, match="DATABASE_URL") as caught,
        local_postgres(list, environ={"DATABASE_URL": url}),
    ):
        pass
    assert "geheim" not in str(caught.value)


def test_a_database_url_that_is_none_names_the_setting() -> None:
    with (
        pytest.raises(UserError, match="DATABASE_URL"),
        local_postgres(list, environ={"DATABASE_URL": "postgresql://[broken"}),
    ):
        pass


def test_a_postgres_that_cannot_be_had_is_said_and_the_next_one_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextlib.contextmanager
    def found(_say: Say) -> Iterator[Postgres]:
        yield Postgres("postgresql://there", "installed")

    lines: list[str] = []
    monkeypatch.setitem(postgres._STARTS, "docker", refusing)
    monkeypatch.setitem(postgres._STARTS, "wheel", refusing)
    monkeypatch.setitem(postgres._STARTS, "installed", found)
    with local_postgres(lines.append, environ={}) as taken:
        assert taken.kind == "installed"
    assert [line.partition(":")[0] for line in lines] == [
        "Postgres (docker)",
        "Postgres (wheel)",
        "Postgres (installed)",
    ]


def test_no_postgres_at_all_is_one_sentence_that_names_the_mend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kind in postgres._STARTS:
        monkeypatch.setitem(postgres._STARTS, kind, refusing)
    with (
        pytest.raises(UserError, match="set DATABASE_URL to one of yours"),
        local_postgres(list, environ={}),
    ):
        pass
