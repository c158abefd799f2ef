"""The benchmarks of other frameworks and of Postgres compare like with like, and say so where a
bar is missed.
"""

from pathlib import Path

import joblib
import pytest

from benchmarks import database
from benchmarks.leads import events
from benchmarks.peers import __main__ as peers
from benchmarks.peers.scoring import Arrived, Scorer
from benchmarks.straightforward import FITTED
from leadstream.settings import load_settings
from models.registry.versions import ModelRegistry
from schemas.codec import Reader
from tests.fakes import FakeMessage
from tests.trained_models import TRUST, trained
from tests.unit import pipelines

READER = Reader("LeadPrediction")


@pytest.fixture
def scorer(model_store: str, tmp_path: Path) -> Scorer:
    manifest = ModelRegistry(model_store, TRUST).show("1.0.0")
    joblib.dump((trained().artifact, manifest), tmp_path / FITTED)
    return Scorer(load_settings({"MODEL_STORE": str(tmp_path / "store")}, None))


@pytest.mark.slow
def test_what_the_peers_predict_is_what_the_service_predicts_in_every_field_and_bit(
    model_store: str, scorer: Scorer
) -> None:
    messages = [
        FakeMessage(pipelines.CHANGES, 0, i, key, value)
        for i, (key, value) in enumerate(events(600))
    ]
    service = pipelines.pipeline(model_store, LEADSTREAM_REASONS="0")
    expected = pipelines.predictions(service.process(pipelines.batch(*messages)))
    arrived = [
        Arrived(one.value() or b"", one.topic(), one.partition(), one.offset()) for one in messages
    ]
    found = scorer.score(arrived)
    assert [key for key, _ in found] == [message.key() for message in messages]
    assert [
        READER.decode(value) | {"scored_at": pipelines.NOW_MS} for _, value in found
    ] == expected
    # Row by row is no other work than in batches.
    assert [_untimed(scorer.score([one])[0][1]) for one in arrived[:5]] == [
        _untimed(value) for _, value in found[:5]
    ]


def test_a_peer_that_is_too_close_is_a_bar_missed_and_one_without_a_bar_is_not() -> None:
    rates = {name: [100.0, 100.0] for name in peers.LOOPS} | {peers.OURS: [399.0, 401.0]}
    met = {row.label: row.met for section in peers.rows(rates) for row in section}
    assert met["no reasons / Bytewax, batches"] is True
    assert met["no reasons / FastStream, batches"] is False
    assert met["no reasons / FastStream, rows"] is None


def test_a_scan_of_a_whole_table_misses_its_bar() -> None:
    run = database.DatabaseRun(
        per_second=100.0, queries_a_batch=1.0, records_a_batch=2000.0, state_seconds=1e-5
    )
    runs = {database.WITH_STATE: [run], database.WITHOUT_STATE: [run]}
    for scans, met in (
        (["Index Scan using people_pkey on people p"], True),
        (["Seq Scan on people p"], False),
    ):
        *_, last = database.rows(runs, scans)[-1]
        assert last.met is met


def test_a_plan_is_shown_without_the_ids_of_two_thousand_leads() -> None:
    assert (
        database.without_ids("  Index Cond: (id = ANY ('{a,b}'::text[]))")
        == "  Index Cond: (id = ANY ('{…}'::text[]))"
    )
    assert database.without_ids("Seq Scan on people p") == "Seq Scan on people p"


def _untimed(value: bytes) -> dict[str, object]:
    return READER.decode(value) | {"scored_at": 0}
