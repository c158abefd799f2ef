"""A whole `run` against a registry with odd answers: each costs its own records, or is waited
for.
"""

import json
import struct
from pathlib import Path
from random import Random

import pytest

from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from schemas.codec import Writer
from schemas.registry import Registry
from tests.faults.odd_values import CANARY, as_bytes, odd_json, odd_schema
from tests.integration.running import QUICK, Stage, headers_of, until
from tests.registry_server import registry_server
from tests.unit.pipelines import event

pytestmark = pytest.mark.broker
FIRST, ODD = 5000, 60


def odd_answer(rng: Random) -> bytes:
    """JSON of any shape, or a schema of any kind, with something done to its bytes."""
    schema = {"schema": json.dumps(odd_schema(rng)), "id": odd_json(rng)}
    return as_bytes(rng, schema if rng.random() < 0.6 else odd_json(rng))


def test_odd_answers_cost_the_records_that_name_them_and_odd_registries_are_waited_for(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    rng = Random(5)
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=2)
    changes = stage.topics.lead_changes
    with registry_server() as registry:
        registry.odd = {FIRST + i: odd_answer(rng) for i in range(ODD)}
        stage.environment["SCHEMA_REGISTRY_URL"] = registry.url
        framed = Writer("LeadChanged", Registry(registry.url), changes)
        good = [
            Output(changes, f"good_{i}".encode(), framed.encode(event(f"good_{i}")))
            for i in range(ODD)
        ]
        odd = [
            Output(changes, b"odd", struct.pack(">BI", 0, FIRST + i) + rng.randbytes(40))
            for i in range(ODD)
        ]
        with stage.running(
            **QUICK,
            LEADSTREAM_DEAD_LETTER_MAX_RATIO="1",
            LEADSTREAM_DEAD_LETTER_MAX_CONSECUTIVE="0",
        ) as process:
            stage.send([each for pair in zip(good, odd, strict=True) for each in pair])
            letters = stage.letters(ODD)
            stage.read(stage.topics.lead_predictions, ODD)
            process.until_ready()
            assert process.accounting()["scored"] == ODD
            assert process.stop() == 0
            assert process.sentences() == []
            assert CANARY not in "\n".join(process.lines())
        reasons = {headers_of(letter)["dlq.reason"] for letter in letters}
        assert reasons <= {"UNKNOWN_SCHEMA", "DECODE_FAILED"}
        assert not any(CANARY in str(headers_of(letter)) for letter in letters)
        # From here on nothing that it says is an answer, also to a process that starts.
        registry.answer = b'{"schema": 7, "id": true}'
        stage.send([stage.change("later")])
        with stage.running(**QUICK) as process:
            until(lambda: "registry" in process.missing(), "the registry is waited for")
            registry.answer = None
            stage.read(stage.topics.lead_predictions, ODD + 1)
            process.until_ready()
            assert process.stop() == 0
            assert process.sentences() == []
    assert len(stage.letters(ODD)) == ODD
