"""A consumer with much before it, or with slow parts next to it, takes its time, and does nothing
else.
"""

from collections import Counter
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from leadstream.local.broker import Broker
from tests.faults.proxy import Proxy, proxying
from tests.integration.conftest import CrmTables
from tests.integration.running import Stage, headers_of, until
from tests.integration.test_delivery import EACH, scored
from tests.unit.pipelines import STATE

pytestmark = pytest.mark.broker
BACKLOG = 200_000
GROWTH_BYTES, MAX_BYTES = 25_000_000, 350_000_000


def resident(pid: int) -> int:
    """Bytes of memory that a process has now."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) * 1024


def test_a_process_that_kept_anything_of_each_change_would_grow_with_its_backlog(
    kafka: Broker, tmp_path: Path, model_store: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    stage.fresh = True
    changes = stage.changes("lead", 2000)
    stage.send(change for _ in range(BACKLOG // len(changes)) for change in changes)
    small = {
        "LEADSTREAM_KAFKA_QUEUED_MIN_MESSAGES": "2000",
        "LEADSTREAM_KAFKA_QUEUED_MAX_MESSAGES_KBYTES": "2048",
        "LEADSTREAM_REASONS": "0",
    }
    largest = [0, 0, 0]
    with stage.running(**EACH, **small) as process:
        process.event("batch")

        def worked_off() -> bool:
            done = int(process.metric("changes_consumed_total"))
            third = min(2, done * 3 // BACKLOG)
            largest[third] = max(largest[third], resident(process.pid))
            return done == BACKLOG

        until(worked_off, "the backlog is worked off", 150)
        assert process.accounting()["scored"] == BACKLOG
        assert process.stop() == 0
    assert 0 < largest[2] < largest[0] + GROWTH_BYTES, largest
    assert max(largest) < MAX_BYTES, largest


@pytest.mark.postgres
def test_large_messages_a_full_queue_and_a_slow_database_cost_time_and_no_change(
    kafka: Broker, crm: CrmTables, tmp_path: Path, model_store: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    without_state = [f"{stage.topics.lead_changes} {number}" for number in range(200)]
    crm.add(*without_state)

    def large(lead_id: str, size: int) -> dict[str, object]:
        return {**STATE, "categories": {lead_id: "x" * size}}

    stage.send(
        [
            *(stage.change(lead, lead=None) for lead in without_state),
            *(stage.change(f"large_{number}", large("large", 250_000)) for number in range(60)),
            *(stage.change(f"over_{number}", large("over", 300_000)) for number in range(3)),
            *stage.changes("small", 2000),
        ]
    )
    expected = Counter(
        [*without_state, *(f"large_{n}" for n in range(60)), *(f"small_{n}" for n in range(2000))]
    )
    server = psycopg.conninfo.conninfo_to_dict(crm.url)
    with (
        proxying() as loop,
        closing(Proxy(loop, str(server["host"]), int(server["port"] or 0))) as database,
    ):
        database.set("slow", 0.05)
        url = psycopg.conninfo.make_conninfo(crm.url, host="127.0.0.1", port=database.port)
        full = {"LEADSTREAM_KAFKA_QUEUE_BUFFERING_MAX_MESSAGES": "20"}
        with stage.running(**EACH, **full, DATABASE_URL=url) as process:
            assert scored(stage, expected.total()) == expected
            letters = stage.letters(3)
            assert process.accounting()["dead_lettered"] == 3
            assert process.events("batch.held") == []
            assert process.stop() == 0
            assert process.sentences() == []
    assert [headers_of(letter)["dlq.reason"] for letter in letters] == ["OVERSIZED"] * 3
    assert scored(stage, expected.total()) == expected
