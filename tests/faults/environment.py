"""What a run stands on:

Kafka, Postgres behind a proxy, a registry behind a proxy, a model store with two versions.
"""

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

# not in its __all__
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from leadstream.kafka.topics import CONFIGS
from leadstream.local.postgres import PostgresProcess, local_server
from leadstream.local.process import Say
from leadstream.log import SILENT
from models.registry.versions import ModelRegistry
from producer.crm import create_schema
from tests.faults.cluster import BrokerCluster, kafka_cluster
from tests.faults.proxy import Proxy, proxying
from tests.faults.schedule import PARTITIONS
from tests.faults.traffic import ODD_LEADS, ODD_SCHEMAS
from tests.integration.running import QUICK, Stage
from tests.registry_server import RegistryState, registry_server
from tests.trained_models import TRUST, promoted_store, trained

CLOCK = Path(__file__).parent / "clock"
SECOND_SEED = 3


@dataclass(frozen=True, slots=True)
class FaultEnvironment:
    """The parts, each to be broken on its own.

    Consumers see the proxies, the sender what is behind them.
    """

    kafka: BrokerCluster
    postgres: PostgresProcess
    database: Proxy
    registry: RegistryState
    registry_gate: Proxy
    store: Path

    @property
    def database_url(self) -> str:
        return self.postgres.url.replace(self.postgres.address, f"127.0.0.1:{self.database.port}")

    @property
    def registry_url(self) -> str:
        return f"http://127.0.0.1:{self.registry_gate.port}"


@contextlib.contextmanager
def fault_environment(brokers: int, folder: Path, say: Say) -> Iterator[FaultEnvironment]:
    """All of it, started; raises UserError where a part cannot be had on this machine."""
    with (
        kafka_cluster(brokers, say) as kafka,
        local_server(say) as postgres,
        registry_server() as registry,
        proxying() as loop,
    ):
        registry.odd = {number: answer for number, (answer, _) in ODD_SCHEMAS.items()}
        store = Path(promoted_store(folder / "models"))
        ModelRegistry(str(store), TRUST).publish(trained(SECOND_SEED))
        host, _, port = postgres.address.rpartition(":")
        with (
            contextlib.closing(Proxy(loop, host, int(port))) as database,
            contextlib.closing(Proxy(loop, "127.0.0.1", urlsplit(registry.url).port or 0)) as gate,
        ):
            yield FaultEnvironment(kafka, postgres, database, registry, gate, store)


# The CRM has rows that cannot be read or scored.
_ODD_ROWS = f"""
alter table people rename to people_rows;
create function is_readable(id text) returns boolean language plpgsql stable cost 10000 as $$
begin
    if id like 'raising%' then raise exception 'the CRM does not show %', id; end if;
    return true;
end $$;
create view people as select * from people_rows where is_readable(id);
insert into people_rows (id, created_at, lead_score)
select kind || '_' || number, moment::timestamptz, score
from generate_series(0, {ODD_LEADS - 1}) as number, (values
    ('raising', 'yesterday', 50), ('ancient', '1901-01-01', 50), ('future', '9000-01-01', 50),
    ('huge', 'yesterday', 1e14)
) as rows(kind, moment, score);
"""
# Letters of the largest records are cut.
SMALL = {"max.message.bytes": "50000"}


def staged(
    environment: FaultEnvironment, folder: Path, *, coalesce: bool, batch_max_records: int
) -> Stage:
    """Topics, a group, a database schema and a model store of one run's own."""
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "models"
    shutil.copytree(environment.store, store)
    shutil.copy(f"{environment.store}.pub", f"{store}.pub")
    stage = Stage.on(environment.kafka.bootstrap, folder, str(store), create=False)
    schema = f"crm_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(environment.postgres.url, autocommit=True) as connection:
        connection.execute(f"create schema {schema}")
        connection.execute(f"set search_path to {schema}")
        create_schema(connection)
        connection.execute(_ODD_ROWS)
    stage.environment |= QUICK | {
        "DATABASE_URL": in_schema(environment.database_url, schema),
        "SCHEMA_REGISTRY_URL": environment.registry_url,
        "LEADSTREAM_COALESCE": str(coalesce),
        "LEADSTREAM_BATCH_MAX_RECORDS": str(batch_max_records),
    }
    admin = AdminClient({"bootstrap.servers": environment.kafka.bootstrap}, logger=SILENT)
    # Records of another time must not be deleted in a schedule that takes long.
    own = {"dead_letters": SMALL, "lead_changes": {"retention.ms": "-1"}}
    wanted = [
        NewTopic(
            getattr(stage.topics, field),
            1 if field == "rescore_requests" else PARTITIONS,
            environment.kafka.replication,
            config={**config, **own.get(field, {})},
        )
        for field, config in CONFIGS.items()
    ]
    for future in admin.create_topics(wanted).values():
        future.result(60)
    return stage


def in_schema(url: str, schema: str) -> str:
    """The URL, its tables looked up in one schema."""
    return f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{schema}"


def direct_database(environment: FaultEnvironment, stage: Stage) -> str:
    """The database of a stage, past the proxy."""
    return in_schema(
        environment.postgres.url, stage.environment["DATABASE_URL"].rpartition("%3D")[2]
    )
