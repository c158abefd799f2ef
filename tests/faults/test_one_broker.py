"""Short schedules of faults on one broker, and each trouble alone: exactly once must hold, and
trouble is no poison.

`make faults` runs long schedules.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import psycopg
import pytest

from leadstream.kafka.batch import Output
from schemas.codec import Writer
from schemas.registry import Registry
from tests.faults.environment import FaultEnvironment, staged
from tests.faults.proxy import Proxy, proxying
from tests.faults.run import run
from tests.faults.schedule import schedule
from tests.integration.running import Running, until
from tests.unit.pipelines import event

pytestmark = [pytest.mark.broker, pytest.mark.postgres, pytest.mark.faults]
SECONDS = 7.0


def proved(environment: FaultEnvironment, seed: int, folder: Path) -> None:
    """A short schedule without a violation."""
    plan = schedule(seed, SECONDS, environment.kafka.replication)
    ran = run(environment, plan, folder / "run")
    replay = f"python -m tests.faults --seed {seed} --seconds {SECONDS:g} --brokers {plan.brokers}"
    assert ran.violations == [], replay
    assert ran.faults.total() == len(plan.faults)
    assert ran.figures["predictions"] > 0


@pytest.mark.parametrize("seed", [3, 6, 7, 10])
def test_whatever_fails_on_one_broker_nothing_is_lost_or_repeated(
    one_broker: FaultEnvironment, seed: int, tmp_path: Path
) -> None:
    proved(one_broker, seed, tmp_path)


@contextlib.contextmanager
def failing_registry(environment: FaultEnvironment) -> Iterator[None]:
    environment.registry.failure = 500
    yield
    environment.registry.failure = None


@contextlib.contextmanager
def refusing_registry(environment: FaultEnvironment) -> Iterator[None]:
    environment.registry_gate.set("refuse")
    yield
    environment.registry_gate.set("pass")


@contextlib.contextmanager
def refusing_database(environment: FaultEnvironment) -> Iterator[None]:
    """It is there, and lets nobody in."""
    with psycopg.connect(environment.postgres.url, autocommit=True) as connection:
        connection.execute("alter role current_user nologin")
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name "
            "= 'leadstream'"
        )
        try:
            yield
        finally:
            connection.execute("alter role current_user login")


TROUBLES: dict[
    str, tuple[str, Callable[[FaultEnvironment], contextlib.AbstractContextManager[None]]]
] = {
    "a registry that answers 500": ("registry", failing_registry),
    "a registry that refuses": ("registry", refusing_registry),
    "a database that lets nobody in": ("postgres", refusing_database),
}


def held_by(process: Running, dependency: str) -> bool:
    """Whether /readyz and the metrics say that a dependency, and nothing else, holds the process
    back.
    """
    reported = (
        process.missing().keys() == {dependency}
        and process.metric("unavailable", dependency=dependency) == 1
    )
    return reported and process.metric("held_batches_total", dependency=dependency) >= 1


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_is_named_while_it_lasts_and_makes_no_dead_letter_of_anything(
    one_broker: FaultEnvironment, tmp_path: Path, trouble: str
) -> None:
    dependency, during = TROUBLES[trouble]
    stage = staged(one_broker, tmp_path / "run", coalesce=True, batch_max_records=100)
    registry = Registry(one_broker.registry.url)
    framed = Writer("LeadChanged", registry, stage.topics.lead_changes).encode(event("framed"))
    with psycopg.connect(stage.environment["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(
            "insert into people (id, created_at) values ('thin', now() - interval '3000 days')"
        )
    with stage.running() as process:
        process.until_ready()
        with during(one_broker):
            stage.send(
                [
                    Output(stage.topics.lead_changes, b"framed", framed),
                    stage.change("thin", lead=None),
                ]
            )
            until(lambda: held_by(process, dependency), f"{dependency} is named")
            # The change that needs nothing may have come in a batch before.
            assert stage.committed(stage.topics.lead_changes) < 2
        assert len(stage.read(stage.topics.lead_predictions, 2)) == 2
        process.until_ready()
        assert process.metric("unavailable", dependency=dependency) == 0
        assert process.accounting()["scored"] == 2
        assert process.stop() == 0
        assert process.sentences() == []
    assert stage.letters(0) == []
    registry.close()


def test_a_model_store_that_cannot_be_reached_is_waited_for_and_one_that_goes_away_stops_nothing(
    one_broker: FaultEnvironment,
    s3: str,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for file in filter(Path.is_file, one_broker.store.rglob("*")):
        put = f"{s3}/{bucket.removeprefix('s3://')}/{file.relative_to(one_broker.store)}"
        plain = {"Content-Type": "application/octet-stream"}
        urlopen(Request(put, file.read_bytes(), plain, method="PUT"), timeout=10).close()
    stage = staged(one_broker, tmp_path / "run", coalesce=True, batch_max_records=100)
    host, _, port = s3.removeprefix("http://").rpartition(":")
    with proxying() as loop, contextlib.closing(Proxy(loop, host, int(port))) as gate:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{gate.port}")
        gate.set("refuse")
        stage.send(stage.changes("early", 3))
        with stage.running(MODEL_STORE=bucket) as process:
            until(lambda: "model store" in process.missing(), "the model store is named")
            assert process.metric("unavailable", dependency="model store") == 1
            assert stage.committed(stage.topics.lead_changes) == 0
            gate.set("pass")
            assert len(stage.read(stage.topics.lead_predictions, 3)) == 3
            process.until_ready()
            assert process.metric("unavailable", dependency="model store") == 0
            gate.set("refuse")
            stage.send(stage.changes("late", 3))
            assert len(stage.read(stage.topics.lead_predictions, 6)) == 6
            assert process.stop() == 0
            assert process.sentences() == []
    assert stage.letters(0) == []
