"""The history on S3: exactly once by conditional puts, and a server that is away is waited for."""

import os
import urllib.request
from pathlib import Path
from uuid import uuid4

import pytest
from deltalake import DeltaTable

from consumer.history.delta_store import storage_options
from consumer.history.table_schemas import CHANGES as CHANGES_TABLE
from leadstream.errors import Transient
from leadstream.kafka.batch import Output
from models.monitor.ledger import DAY_MS
from tests.fakes import MemoryBroker
from tests.histories import CHANGES, TOPICS, MemoryHistory
from tests.integration.test_history import verb
from tests.unit.pipelines import NOW_MS, event
from tests.unit.test_history_writer import changed, decided


@pytest.fixture
def history_url(s3: str) -> str:
    name = f"history-{uuid4().hex[:8]}"
    urllib.request.urlopen(urllib.request.Request(f"{s3}/{name}", method="PUT")).close()
    return f"s3://{name}/tables"


def offsets(url: str) -> list[int]:
    table = DeltaTable(f"{url}/changes", storage_options=storage_options(url))
    return sorted(table.to_pyarrow_table(columns=["offset"])["offset"].to_pylist())


def keys(s3: str, url: str) -> bytes:
    """The names of all objects of a bucket."""
    bucket = url.removeprefix("s3://").split("/")[0]
    return bytes(urllib.request.urlopen(f"{s3}/{bucket}?list-type=2").read())


def test_two_writers_on_one_partition_write_it_once(history_url: str) -> None:
    broker = MemoryBroker(now=NOW_MS)
    broker.append(changed("a"))
    zombie, owner = MemoryHistory(broker, history_url), MemoryHistory(broker, history_url)
    zombie.read()
    owner.write()
    broker.append(changed("b"))
    zombie.read()
    zombie.writer.flush()
    owner.write()
    assert offsets(history_url) == [0, 1]


def test_two_commits_at_one_version_would_lose_one_without_the_conditional_put(
    history_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = MemoryBroker(now=NOW_MS)
    broker.append(changed("a"))
    slow, fast = MemoryHistory(broker, history_url), MemoryHistory(broker, history_url)
    slow.read()
    fast.read()
    table = slow.tables.stored[CHANGES_TABLE]
    append = table.append

    def overtaken(*arguments: object) -> None:
        monkeypatch.setattr(table, "append", append)
        fast.writer.flush()
        append(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(table, "append", overtaken)
    slow.writer.flush()
    assert offsets(history_url) == [0]
    assert slow.observer.conflicts == {"changes": 1}


def test_a_training_reads_the_same_rows_from_a_bucket_as_from_a_folder(
    history_url: str, tmp_path: Path
) -> None:
    pytest.importorskip("duckdb")
    from consumer.history.training_rows import RowOptions, read_training_rows

    state = event("x")["lead"] | {"created_at": NOW_MS - 200 * DAY_MS}
    changes = [
        changed(f"lead {number}", lead=state, occurred_at=NOW_MS - (90 + number) * DAY_MS)
        for number in range(20)
    ]
    outcomes = [("lead 3", 80), ("before", 200), ("newest", 1)]
    found = []
    for root in (history_url, str(tmp_path / "history")):
        broker = MemoryBroker(now=NOW_MS)
        for output in (
            *changes,
            *(decided(lead, NOW_MS - days * DAY_MS) for lead, days in outcomes),
        ):
            broker.append(output)
        MemoryHistory(broker, root).write()
        found.append(read_training_rows(root, TOPICS, RowOptions(30, allow_gaps=True)))
    bucket, folder = found
    assert len(bucket.table) == 20
    assert bucket.table["converted"].to_pylist().count(True) == 1
    assert bucket.table.equals(folder.table)


def test_an_erased_lead_leaves_the_bucket(history_url: str, s3: str, tmp_path: Path) -> None:
    broker = MemoryBroker(now=NOW_MS)
    broker.append(changed("secret"))
    broker.append(changed("other"))
    history = MemoryHistory(broker, history_url)
    history.write()
    before = keys(s3, history_url)
    broker.append(Output(CHANGES, b"secret", None))
    history.write()
    # In a process of its own: the server of the tests is in this one.
    done = verb("compact", dict(os.environ) | {"LEADSTREAM_HISTORY": history_url}, tmp_path)
    assert [(each["erased_rows"], each["deleted_files"]) for each in done] == [
        (1, 1),
        (0, 0),
        (0, 0),
    ]
    assert keys(s3, history_url).count(b".parquet") == before.count(b".parquet") + 1
    assert offsets(history_url) == [1]


def test_a_server_that_is_away_is_waited_for(
    history_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = MemoryBroker(now=NOW_MS)
    broker.append(changed("a"))
    history = MemoryHistory(broker, history_url)
    url = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    away = MemoryHistory(broker, history_url)
    with pytest.raises(Transient, match=r"history store: .*127\.0\.0\.1:1"):
        away.write()
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    history.write()
    assert offsets(history_url) == [0]
