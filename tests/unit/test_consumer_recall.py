"""What a process reads of the predictions of others before it scores their leads."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from io import BytesIO
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_writer

from consumer.run import recall as recall_module
from consumer.run.recall import Recall
from consumer.scoring.erased import source_headers
from consumer.scoring.versions import Versions
from leadstream.kafka.batch import Message
from leadstream.settings import load_settings
from schemas.codec import Reader
from schemas.registry import Registry
from schemas.schema_files import current_schema, released_schemas
from tests.fakes import FakeMessage
from tests.registry_server import registry_server
from tests.unit.pipelines import CHANGES, NOW_MS, PREDICTIONS, batch, change, on, pipeline

WRITERS = {
    **{version: schemas["LeadPrediction"] for version, schemas in released_schemas().items()},
    "current": current_schema("LeadPrediction"),
}
FIRST, SECOND = (CHANGES, 0), (CHANGES, 1)


class _Log:
    """A predictions topic of one partition, and from where it was read."""

    topic = PREDICTIONS

    def __init__(self, records: list[FakeMessage]) -> None:
        self.records, self.starts = records, list[int]()

    def partitions(self) -> list[int]:
        return [0]

    def ends(self, _topic: str, _partitions: list[int]) -> dict[int, int]:
        return {0: len(self.records)}

    def read(self, starts: Mapping[int, int], _ends: Mapping[int, int]) -> Iterator[Message]:
        self.starts.append(starts[0])
        return iter(self.records[starts[0] :])

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Any:
    log = _Log([])
    monkeypatch.setattr(recall_module, "TopicReader", lambda *_, **__: log)
    monkeypatch.setattr(recall_module, "TopicOffsets", lambda _settings: log)
    return log


@pytest.mark.parametrize("writer", WRITERS)
def test_a_prediction_is_known_whatever_the_registry_says_of_its_schema_id(
    log: Any, model_store: str, writer: str
) -> None:
    [output] = on(pipeline(model_store).process(batch(change(1, lead_version=8))), PREDICTIONS)
    assert output.value is not None
    assert output.key is not None
    record, body = Reader("LeadPrediction").decode(output.value), BytesIO()
    schemaless_writer(body, parse_schema(WRITERS[writer]), record)
    versions = Versions()
    with registry_server() as server, closing(Registry(server.url)) as registry:
        number = registry.schema_id(f"{PREDICTIONS}-value", WRITERS[writer])
        value = b"\0" + number.to_bytes(4, "big") + body.getvalue()
        log.records.append(FakeMessage(PREDICTIONS, 0, 0, output.key, value, None, NOW_MS))
        server.odd[number] = b"[1, 2]"
        with closing(Registry(server.url)) as asked:
            Recall(load_settings({}, None), asked, versions)([FIRST])
    assert versions.newest([output.key]).tolist() == [8]


def test_a_group_that_may_read_changes_again_learns_of_every_erasure(
    log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nulls = [
        FakeMessage(
            PREDICTIONS, 0, at, b"lead_%d" % at, None, source_headers(CHANGES, 0, 100 + at), NOW_MS
        )
        for at in range(50)
    ]
    log.records += nulls
    monkeypatch.setattr(recall_module, "MAX_RECORDS", 10)
    beats: list[int] = []
    recall = Recall(load_settings({}, None), None, Versions(), None, lambda: beats.append(1))
    recall([FIRST])
    recall([FIRST])
    recall.assigned()
    recall([FIRST])
    recall.read_everything()
    recall([FIRST])
    recall([FIRST])
    assert log.starts == [40, 50, 0]
    assert beats


def test_what_an_earlier_owner_published_before_the_first_batch_of_its_partition_is_known(
    log: Any, model_store: str
) -> None:
    def publish(version: int) -> None:
        changed = change(1, lead_version=version)
        [output] = on(pipeline(model_store).process(batch(changed)), PREDICTIONS)
        log.records.append(
            FakeMessage(PREDICTIONS, 0, len(log.records), output.key, output.value, None, NOW_MS)
        )

    versions = Versions()
    recall = Recall(load_settings({}, None), None, versions)
    recall.assigned()
    publish(7)
    recall([FIRST])
    # Its transaction was open when the other partition had its first batch.
    publish(8)
    recall([FIRST])
    assert versions.newest([b"lead_1"]).tolist() == [7]
    recall([FIRST, SECOND])
    assert versions.newest([b"lead_1"]).tolist() == [8]
