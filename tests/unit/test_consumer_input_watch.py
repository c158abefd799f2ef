"""The inputs that changes carry: what the model needs and no change brings is reported at once."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from consumer import current_prediction
from consumer.run.input_watch import InputWatch
from leadstream.cli.main import main
from leadstream.cli.model_inputs import inputs_without_column
from leadstream.process.status import Status
from leadstream.settings import load_settings
from models.monitor.inputs import learned_inputs, was_made_with
from models.registry.slot import ModelSlot
from models.registry.versions import ModelRegistry
from schemas.codec import Reader, Writer
from tests.fakes import FakeMessage
from tests.subscriber import prediction
from tests.trained_models import TRUST
from tests.unit.pipelines import batch, change, pipeline
from tests.unit.test_consumer_service import RecordingLog

WINDOW = 100


class WatchedLine:
    """A pipeline whose scored changes the watch sees."""

    def __init__(self, store: str) -> None:
        self.slot = ModelSlot(ModelRegistry(store, TRUST))
        self.status, self.log = Status(), RecordingLog()
        self.watch = InputWatch(self.status, self.log, window=WINDOW)  # type: ignore[arg-type]
        self.watch.serve(self.slot.get())
        self._line = pipeline(self.slot)

    def send(self, count: int, **state: Any) -> str | None:
        """Score changes, and return the warning."""
        messages = [change(n, f"lead_{n}", state) for n in range(count)]
        self.watch.see(self._line.process(batch(*messages)).scored)
        return self.status.warnings().get("inputs")


@pytest.mark.parametrize(("name", "absent"), [("lead_score", None), ("source", None)])
def test_an_input_that_none_of_the_last_changes_carries_is_named(
    model_store: str, name: str, absent: None
) -> None:
    line = WatchedLine(model_store)
    assert name in learned_inputs(line.slot.get().manifest)
    assert line.send(WINDOW - 1, **{name: absent}) is None
    warning = line.send(1, **{name: absent})
    assert warning is not None
    assert f"reads {name}; 0 of the last {WINDOW} changes carry it" in warning
    line.send(5, **{name: absent})
    assert line.log.events() == ["inputs.absent"], "once"
    assert line.send(1) is None, "the next change carries it"


def test_inputs_that_come_now_and_then_are_no_warning(model_store: str) -> None:
    line = WatchedLine(model_store)
    for _ in range(5):
        assert line.send(WINDOW - 1, lead_score=None) is None
        assert line.send(1) is None


def test_another_model_starts_again(model_store: str) -> None:
    line = WatchedLine(model_store)
    assert line.send(WINDOW, lead_score=None)
    line.watch.serve(line.slot.get())
    assert line.status.warnings() == {}


def store_of_model(folder: Path, store: str, **inputs: float) -> str:
    """A store whose champion learned from further inputs, with these shares of missing rows."""
    copy = Path(shutil.copytree(store, folder / "store"))
    manifest = copy / "versions" / "1.0.0" / "manifest.json"
    found = json.loads(manifest.read_bytes())
    for name, missing in inputs.items():
        found["drift"]["inputs"][name] = {"kind": "number", "missing": missing}
    manifest.write_text(json.dumps(found))
    return str(copy)


def test_a_road_brings_what_its_description_names(model_store: str, tmp_path: Path) -> None:
    manifest = {
        "drift": {
            "inputs": {
                "numbers.gpa": {"missing": 0.2},
                "numbers.rare": {"missing": 0.999},
                "status": {"missing": 0.0},
            }
        }
    }
    assert inputs_without_column(manifest, load_settings({}, None)) == ["numbers.gpa"]
    crm = tmp_path / "crm.toml"
    crm.write_text(
        '[database]\ntable = "c"\nid = "i"\n[lead]\ncreated_at = "t"\nstatus = "s"\n'
        '[lead.numbers]\ngpa = "gpa"\n'
    )
    settings = load_settings({"LEADSTREAM_FIELDS": str(crm)}, None)
    assert inputs_without_column(manifest, settings) == []
    assert inputs_without_column({}, settings) == []


def test_a_rescore_with_fewer_inputs_than_changes_have_needs_a_word(
    model_store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    store = store_of_model(tmp_path, model_store, **{"numbers.gpa": 0.1, "numbers.rare": 1.0})
    monkeypatch.setenv("MODEL_STORE", store)
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    topic = TopicOfScores(
        [
            *(score("ada", imputed=["numbers.gpa"]), score("ben"), score("eve")),
            *(score("eve", imputed=["numbers.gpa"]), score("old", model_version="0.9.0")),
            *(score("dot"), FakeMessage("scores", 0, 9, b"dot", None), score("fay")),
            FakeMessage("scores", 0, 9, b"eve", b"no prediction"),
        ]
    )
    monkeypatch.setattr(current_prediction, "reading_predictions", topic.reading)
    assert main(["rescore", "--file", ids_of(tmp_path, "ada", "ben", "eve", "old", "dot")]) == 1
    reported = capsys.readouterr().err
    assert "1 of these leads would lose a score that was made with numbers.gpa" in reported
    assert "--allow-fewer-inputs" in reported
    assert "numbers.rare" not in reported
    # ada and eve never had it or lost it, another model does not read it, dot is erased.
    for arguments in (["ada", "eve", "old", "dot"], ["ben", "--allow-fewer-inputs"]):
        assert main(["rescore", *arguments]) == 2
        assert "KAFKA_BOOTSTRAP_SERVERS" in capsys.readouterr().err
    monkeypatch.setenv("MODEL_STORE", model_store)
    assert main(["rescore", "ben"]) == 2, "this model reads nothing that people lack"


def score(lead_id: str, **fields: Any) -> FakeMessage:
    value = _SCORE.encode(prediction(lead_id) | {"model_version": "1.0.0", "imputed": []} | fields)
    return FakeMessage("scores", 0, 0, lead_id.encode(), value)


def ids_of(folder: Path, *lead_ids: str) -> str:
    path = folder / "ids"
    path.write_text("\n".join(lead_ids))
    return str(path)


@dataclass(frozen=True, slots=True)
class TopicOfScores:
    """The predictions topic, as far as it is read here."""

    messages: list[FakeMessage]

    @contextlib.contextmanager
    def reading(self, _settings: object) -> Iterator[tuple["TopicOfScores", Reader]]:
        yield self, Reader("LeadPrediction")

    def partitions(self) -> list[int]:
        return [0]

    def bounds(self, _partition: int) -> tuple[int, int]:
        return 0, len(self.messages)

    def read(self, _starts: Mapping[int, int]) -> Iterator[FakeMessage]:
        yield from self.messages


_SCORE = Writer("LeadPrediction")


def test_a_promotion_says_what_postgres_will_not_bring(
    model_store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    store = store_of_model(tmp_path, model_store, **{"numbers.gpa": 0.1})
    monkeypatch.setenv("MODEL_STORE", store)
    monkeypatch.setattr(ModelRegistry, "promote", lambda *_, **__: None)
    assert main(["models", "promote", "1.0.0"]) == 0
    assert "Note: model 1.0.0 reads numbers.gpa, which Postgres does not bring" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("imputed", "coverage", "inputs", "made"),
    [
        ([], 1.0, ["numbers.gpa"], True),
        (["numbers.gpa"], 0.75, ["numbers.gpa"], False),
        (["numbers.gpa"], 0.75, ["numbers.gpa", "campus"], True),
        (["numbers.gpa"], 0.5, ["numbers.gpa", "campus"], False),
        ([], 1.0, ["campus"], True),
        ([], 0.75, ["campus"], False),
        ([], 0.75, ["campus", "status"], True),
        ([], 1.0, ["elsewhere"], False),
    ],
)
def test_a_category_that_a_score_had_would_be_lost_because_no_list_names_it(
    imputed: list[str], coverage: float, inputs: list[str], made: bool
) -> None:
    known = {"numbers.gpa": "number", "campus": "category", "status": "category"}
    manifest = {
        "drift": {"inputs": {name: {"kind": k, "missing": 0.1} for name, k in known.items()}}
    }
    prediction = {"imputed": imputed, "feature_coverage": coverage}
    assert was_made_with(prediction, manifest, inputs) is made
    assert not was_made_with(prediction, {}, inputs)
