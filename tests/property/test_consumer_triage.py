"""Live events, replays and discards in any order end in the table of scores that the kept history has by itself."""

import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumer.batch import Output
from consumer.pipeline import Pipeline
from consumer.triage.audit import Action, verify
from consumer.triage.judge import Judge
from consumer.triage.letters import Letter
from consumer.triage.replay import Run, Tally, discard, replay
from leadstream.settings import load_settings
from leadstream.topics import Topics
from models.registry import ModelRegistry
from models.slot import ModelSlot
from schemas.codec import Reader, Writer
from tests.fakes import MemoryBroker, MemoryDesk, MemoryPublisher, MemorySource
from tests.letters import letter_output
from tests.trained import TRUST
from tests.unit.pipelines import CHANGES, NOW_MS, PREDICTIONS, batch, event, pipeline

TOPICS, SETTINGS = Topics(), load_settings({}, None)
CHANGE, PREDICTION = Writer("LeadChanged"), Reader("LeadPrediction")
LEADS = ("a", "b", "c")

leads = st.sampled_from(LEADS)
steps = st.one_of(
    st.tuples(st.just("live"), leads),
    st.tuples(st.just("erase"), leads),
    st.tuples(st.just("fail"), leads),
    st.tuples(st.just("consume"), st.integers(1, 3)),
    st.tuples(st.just("replay"), st.integers(1, 4)),
    st.tuples(st.just("discard"), st.integers(0, 5)),
)


@pytest.fixture(scope="module")
def line(model_store: str) -> Pipeline:
    return pipeline(ModelSlot(ModelRegistry(model_store, TRUST)))


class Crm:
    """A CRM whose changes have rising versions, the consumers behind it, and operators at the letters.

    Some of its changes fail at first, and would pass by now. `history` is all that was not given up, in its order.
    """

    def __init__(self, line: Pipeline, versions: bool, arrivals: list[str]) -> None:
        self.broker = MemoryBroker()
        self.history: dict[int, tuple[str, bytes | None]] = {}
        self._line = line
        self._versions = versions
        self._arrivals = arrivals
        self._source = MemorySource(self.broker, SETTINGS.group_id, [CHANGES])
        self._publisher = MemoryPublisher(self.broker, self._source)
        self._letters: dict[int, int] = {}
        self._number = 0

    def change(self, lead: str, erases: bool = False) -> tuple[bytes, bytes | None]:
        self._number += 1
        self.broker.now += 1
        version = self._number if self._versions else 0
        facts = {"lead_version": version, "occurred_at": NOW_MS + self._number, "event_id": f"event {self._number}"}
        value = None if erases else CHANGE.encode(event(lead, {"lead_score": float(self._number % 100)}, **facts))
        self.history[self._number] = (lead, value)
        return lead.encode(), value

    def live(self, lead: str, erases: bool = False) -> None:
        self.broker.append(Output(CHANGES, *self.change(lead, erases)))

    def fail(self, lead: str) -> None:
        """A change became a letter, after all that stands before it in its topic."""
        self.consume(1_000_000)
        key, value = self.change(lead)
        letter = letter_output(self._number, key, value, failed_at=self.broker.now)
        self._letters[len(self.broker.records[TOPICS.dead_letters])] = self._number
        self.broker.append(letter)

    def consume(self, most: int) -> None:
        self._source._max_records = most
        while (found := self._source.poll(0)) is not None:
            self.broker.now += 1
            self._publisher.commit(self._line.process(found).outputs, found)
            if most < 1_000_000:
                return

    def letters(self) -> list[Letter]:
        return [Letter.of(message) for message in self.broker.records[TOPICS.dead_letters]]

    def replay(self, most: int) -> Tally:
        """An operator with a desk of his own; while it works and while it waits, the world goes on."""
        desk = MemoryDesk(self.broker, SETTINGS.group_id, TOPICS, self._arrive)
        desk.take()
        found = [each for each in self.letters() if desk.decided.get(each.id) is None][:most]
        desk.watch({each.key for each in found if each.key})
        run = Run(desk, stop=threading.Event(), rate=10**9, pause=lambda _seconds: self.consume(1_000_000))
        return replay(run, found, Judge(SETTINGS, None))

    def discard(self, place: int) -> None:
        desk = MemoryDesk(self.broker, SETTINGS.group_id, TOPICS)
        desk.take()
        found = [each for each in self.letters() if each.id.offset == place and desk.decided.get(each.id) is None]
        for each in found:
            del self.history[self._letters[each.id.offset]]
        discard(Run(desk), found, "a test")

    def _arrive(self) -> None:
        if self._arrivals:
            self.live(self._arrivals.pop())

    def table(self) -> dict[bytes | None, dict[str, Any] | None]:
        return _table((message.key(), message.value()) for message in self.broker.records[PREDICTIONS])

    def in_order(self) -> dict[bytes | None, dict[str, Any] | None]:
        """The table of the kept history, each change in a batch of its own."""
        broker = MemoryBroker()
        for _, (lead, value) in sorted(self.history.items()):
            broker.append(Output(CHANGES, lead.encode(), value))
        outputs = [
            output for message in broker.records[CHANGES] for output in self._line.process(batch(message)).outputs
        ]
        return _table((output.key, output.value) for output in outputs if output.topic == PREDICTIONS)


def _table(records: Any) -> dict[bytes | None, dict[str, Any] | None]:
    """The last record of each lead, but for where and when it was scored."""
    found: dict[bytes | None, dict[str, Any] | None] = {}
    for key, value in records:
        found[key] = None if value is None else PREDICTION.decode(value)
        for name in ("source_offset", "source_partition", "coalesced_changes", "scored_at"):
            (found[key] or {}).pop(name, None)
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(steps, max_size=25), versions=st.booleans(), arrivals=st.lists(leads, max_size=4))
def test_a_table_that_depends_on_when_somebody_replays_is_a_matter_of_luck(
    line: Pipeline, drawn: list[tuple[str, Any]], versions: bool, arrivals: list[str]
) -> None:
    crm = Crm(line, versions, arrivals)
    for step, fact in drawn:
        match step:
            case "live":
                crm.live(fact)
            case "erase":
                crm.live(fact, erases=True)
            case "fail":
                crm.fail(fact)
            case "consume":
                crm.consume(fact)
            case "replay":
                crm.replay(fact)
            case "discard":
                crm.discard(fact)
    tally = crm.replay(1_000)
    crm.consume(1_000_000)
    assert not tally.left
    assert crm.table() == crm.in_order()
    audit = crm.broker.records[TOPICS.dead_letter_audit]
    assert verify(audit, Reader("TriageDecision")).breaks == []
    assert len(audit) == len(crm.letters())
    sent = [message for message in crm.broker.records[CHANGES] if message.headers()]
    replayed = [m for m in audit if Reader("TriageDecision").decode(m.value() or b"")["action"] == Action.REPLAYED]
    assert len(sent) == len(replayed)
