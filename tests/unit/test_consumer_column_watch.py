"""The columns of the CRM that a model reads: one that is gone is no silent imputation."""

from types import SimpleNamespace
from typing import Any

from consumer.run.column_watch import ColumnWatch
from leadstream.process.status import Status
from tests.unit.test_consumer_service import RecordingLog


def model(*names: str) -> Any:
    inputs = [SimpleNamespace(name=name) for name in names]
    return SimpleNamespace(version="1.0.0", specification=SimpleNamespace(inputs=inputs))


def test_a_column_that_was_renamed_is_a_warning_until_it_is_back() -> None:
    crm, status, log = SimpleNamespace(lacking=()), Status(), RecordingLog()
    watch = ColumnWatch(crm, status, log)  # type: ignore[arg-type]
    serving = model("lead_score", "status")
    watch.follow(None)
    watch.follow(serving)
    assert not status.warnings()
    crm.lacking = ("lead_score", "campus_name")
    for _ in range(3):
        watch.follow(serving)
    assert "lead_score" in status.warnings()["postgres columns"]
    assert "campus_name" not in status.warnings()["postgres columns"], "the model does not read it"
    assert log.events() == ["postgres.columns"]
    watch.follow(model("campus_name"))
    assert "campus_name" in status.warnings()["postgres columns"], "another model, other columns"
    crm.lacking = ()
    watch.follow(serving)
    assert not status.warnings()


def test_an_own_field_that_no_file_describes_is_a_warning_at_the_start() -> None:
    crm, status, log = SimpleNamespace(lacking=()), Status(), RecordingLog()
    described = ("created_at", "numbers.visits")
    watch = ColumnWatch(crm, status, log, described)  # type: ignore[arg-type]
    watch.follow(model("status", "numbers.gpa", "numbers.visits"))
    warning = status.warnings()["postgres columns"]
    assert "no usable column for numbers.gpa:" in warning
    assert "LEADSTREAM_FIELDS" in warning
    watch.follow(model("status", "numbers.visits"))
    assert not status.warnings()
