"""deploy/roles.py on a real Postgres: each role does its work, and nothing else."""

import os
import subprocess
from pathlib import Path

import psycopg
import pytest

from deploy.roles import RIGHTS, make_roles
from leadstream.local.postgres import Postgres
from producer.outbox import Outbox
from tests.deploy.tools import DEPLOY
from tests.integration.outboxes import outbox_crm

pytestmark = [pytest.mark.deploy, pytest.mark.postgres]


def test_each_role_does_its_work_and_no_more(postgres: Postgres, tmp_path: Path) -> None:
    for service in RIGHTS:
        (tmp_path / service).mkdir()
        (tmp_path / service / "password").write_text(f"secret of {service}")
    with outbox_crm(postgres.url) as crm:
        crm.add("ada")
        for _ in range(2):  # prepare may run again
            make_roles(crm.connection, tmp_path)
        try:
            urls = {
                service: psycopg.conninfo.make_conninfo(
                    crm.url, user=f"leadstream_{service}", password=f"secret of {service}"
                )
                for service in RIGHTS
            }
            relay = Outbox(urls["relay"])
            relay.connect()
            assert [row.lead_id for row in relay.rows(0, 10)] == ["ada"]
            relay.close()
            refused = {
                "relay": ("select * from people", "insert into leadstream_outbox default values"),
                "consumer": ("update people set lead_score = 1", "select * from leadstream_outbox"),
            }
            with psycopg.connect(urls["consumer"]) as consumer:
                assert consumer.execute("select id from people").fetchall() == [("ada",)]
            for service, statements in refused.items():
                for statement in statements:
                    with (
                        psycopg.connect(urls[service]) as connection,
                        pytest.raises(psycopg.errors.InsufficientPrivilege),
                    ):
                        connection.execute(statement.encode())
        finally:
            for service in RIGHTS:
                crm.do(f"drop owned by leadstream_{service}")
                crm.do(f"drop role leadstream_{service}")


def test_a_service_gets_the_address_of_its_own_role(tmp_path: Path) -> None:
    script = (DEPLOY / "with-database.sh").read_text("utf-8").replace("/secrets", str(tmp_path))
    command = ["sh", "-c", script, "sh", "sh", "-c", 'echo "$DATABASE_URL"']
    environment = {"PATH": os.defpath}
    assert subprocess.run(command, check=False, env=environment).returncode != 0
    (tmp_path / "database-url").write_text("postgresql://own")
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert done.stdout == "postgresql://own\n"
