"""Live events, replays and discards in any order end in the table of scores that the kept history
has by itself.
"""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from consumer.dead_letters.audit import Action, decode_decision, verify
from consumer.dead_letters.letters import Letter
from consumer.dead_letters.planner import Planner
from consumer.dead_letters.replay import DecisionProgress, DecisionRun, discard, replay
from consumer.scoring.pipeline import Pipeline
from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from models.registry.slot import ModelSlot
from models.registry.versions import ModelRegistry
from schemas.codec import Reader, Writer
from tests.examples import examples
from tests.fakes import MemoryBroker
from tests.harness import Harness, KafkaHarness, MemoryHarness, SharedKafka, shared_kafka
from tests.letters import letter_output
from tests.trained_models import TRUST
from tests.unit.pipelines import CHANGES, NOW_MS, PREDICTIONS, batch, event, pipeline

CHANGE, PREDICTION, DECISION = (
    Writer("LeadChanged"),
    Reader("LeadPrediction"),
    Reader("TriageDecision"),
)
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
# What happens once an operator has looked and before he settles: a change comes in, or (None)
# another takes the desk.
happenings = st.lists(st.none() | leads, max_size=4)
_no_fixtures = [HealthCheck.function_scoped_fixture]


@pytest.fixture(scope="module")
def model(model_store: str) -> ModelSlot:
    return ModelSlot(ModelRegistry(model_store, TRUST))


@pytest.fixture(scope="module")
def forgetful(model: ModelSlot) -> Pipeline:
    """Scores whatever it gets, and remembers nothing of what it got before."""
    return pipeline(model)


@pytest.fixture(scope="module")
def real(
    kafka: Broker, model_store: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SharedKafka]:
    with shared_kafka(kafka.bootstrap, tmp_path_factory.mktemp("triage"), model_store) as found:
        yield found


class TriagedCrm:
    """A CRM whose changes have rising versions, the consumers behind it, and operators at the
    letters.

    Some of its changes fail at first, and would pass by now. `history` is all that was not given
    up, in its order.
    """

    def __init__(self, harness: Harness, versions: bool, happenings: list[str | None]) -> None:
        self.harness = harness
        self.topics = harness.settings.topics
        self.history: dict[int, tuple[str, bytes | None]] = {}
        self._versions = versions
        self._happenings = happenings
        self._number = 0

    def change(self, lead: str, erases: bool = False) -> tuple[bytes, bytes | None]:
        self._number += 1
        self.harness.tick()
        lead += self.harness.mark
        version = self._number if self._versions else 0
        fields = {
            "lead_version": version,
            "occurred_at": NOW_MS + self._number,
            "event_id": f"event {self._number}",
        }
        value = (
            None
            if erases
            else CHANGE.encode(event(lead, {"lead_score": float(self._number % 100)}, **fields))
        )
        self.history[self._number] = (lead, value)
        return lead.encode(), value

    def live(self, lead: str, erases: bool = False) -> None:
        self.harness.append(Output(self.topics.lead_changes, *self.change(lead, erases)))

    def fail(self, lead: str) -> None:
        """A change became a letter, after all that stands before it in its topic."""
        self.harness.consume()
        key, value = self.change(lead)
        now = self.harness.tick()
        origin, topic = self.topics.lead_changes, self.topics.dead_letters
        self.harness.append(
            letter_output(
                self._number, key, value, origin=origin, topic=topic, sent_at=now, failed_at=now
            )
        )

    def letters(self) -> list[Letter]:
        """In the order in which they failed; a letter's origin has the number of its change as the
        offset.
        """
        found = [
            Letter.from_message(message)
            for message in self.harness.records(self.topics.dead_letters)
        ]
        return sorted(
            (each for each in found if self._mine(each.key)),
            key=lambda each: each.parsed.offset or 0,
        )

    def replay(self, max_changes: int) -> DecisionProgress:
        """An operator with an executor; while it works and waits, other changes arrive."""
        executor = self.harness.executor(self._happen)
        executor.acquire()
        found = [each for each in self.letters() if executor.decided.get(each.id) is None][
            :max_changes
        ]
        executor.track({each.key for each in found if each.key})
        run = DecisionRun(
            executor,
            stop=threading.Event(),
            rate=10**9,
            pause=lambda _seconds: self.harness.consume(),
        )
        progress = replay(run, found, Planner(self.harness.settings, None))
        executor.close()
        return progress

    def discard(self, place: int) -> None:
        executor = self.harness.executor(lambda: None)
        executor.acquire()
        found = [
            each
            for each in self.letters()[place : place + 1]
            if executor.decided.get(each.id) is None
        ]
        for each in found:
            del self.history[each.parsed.offset or 0]
        discard(DecisionRun(executor), found, "a test")
        executor.close()

    def _happen(self) -> None:
        if not self._happenings:
            return
        lead = self._happenings.pop()
        if lead is None:
            self.harness.steal()
        else:
            self.live(lead)

    def table(self) -> dict[bytes | None, dict[str, Any] | None]:
        records = self.harness.records(self.topics.lead_predictions)
        return _table(
            (message.key(), message.value()) for message in records if self._mine(message.key())
        )

    def in_order(self, line: Pipeline) -> dict[bytes | None, dict[str, Any] | None]:
        """The table of the kept history, each change in a batch of its own."""
        broker = MemoryBroker()
        for _, (lead, value) in sorted(self.history.items()):
            broker.append(Output(CHANGES, lead.encode(), value))
        outputs = [
            output
            for message in broker.records[CHANGES]
            for output in line.process(batch(message)).outputs
        ]
        return _table((each.key, each.value) for each in outputs if each.topic == PREDICTIONS)

    def check_audit(self) -> None:
        """The chain holds, each letter has one decision, and what was replayed was sent once."""
        audit = self.harness.records(self.topics.dead_letter_audit)
        assert verify(audit, DECISION).breaks == []
        mine = {each.id for each in self.letters()}
        found = [
            decision
            for message in audit
            if (decision := decode_decision(message, DECISION)).letter in mine
        ]
        assert len(found) == len(mine)
        changes = self.harness.records(self.topics.lead_changes)
        sent = [message for message in changes if message.headers() and self._mine(message.key())]
        assert len(sent) == sum(decision.action is Action.REPLAYED for decision in found)

    def _mine(self, key: bytes | None) -> bool:
        return (key or b"").endswith(self.harness.mark.encode())


def _table(records: Any) -> dict[bytes | None, dict[str, Any] | None]:
    """The last record of each lead, but for where and when it was scored."""
    found: dict[bytes | None, dict[str, Any] | None] = {}
    for key, value in records:
        found[key] = None if value is None else PREDICTION.decode(value)
        for name in (
            "source_topic",
            "source_offset",
            "source_partition",
            "coalesced_changes",
            "scored_at",
        ):
            (found[key] or {}).pop(name, None)
    return found


def interleave(crm: TriagedCrm, forgetful: Pipeline, drawn: list[tuple[str, Any]]) -> None:
    """Let it all happen, then replay what is left: the table must be that of the history in its
    order.
    """
    for step, fact in drawn:
        match step:
            case "live":
                crm.live(fact)
            case "erase":
                crm.live(fact, erases=True)
            case "fail":
                crm.fail(fact)
            case "consume":
                crm.harness.consume(fact)
            case "replay":
                crm.replay(fact)
            case "discard":
                crm.discard(fact)
    progress = crm.replay(1_000)
    crm.harness.consume()
    assert not progress.skipped
    assert crm.table() == crm.in_order(forgetful)
    crm.check_audit()


@settings(max_examples=examples(150), deadline=None, suppress_health_check=_no_fixtures)
@given(drawn=st.lists(steps, max_size=25), versions=st.booleans(), happens=happenings)
def test_a_table_that_depends_on_when_somebody_replays_is_a_matter_of_luck(
    model: ModelSlot,
    forgetful: Pipeline,
    drawn: list[tuple[str, Any]],
    versions: bool,
    happens: list[str | None],
) -> None:
    interleave(TriagedCrm(MemoryHarness(model), versions, happens), forgetful, drawn)


# On a real Kafka an example takes a second or two: few of them, always the same ones, and none made
# smaller.
_few = settings(
    max_examples=examples(8),
    derandomize=True,
    deadline=None,
    phases=(Phase.generate,),
    suppress_health_check=_no_fixtures,
)
_many = settings(_few, max_examples=examples(60))
_long = st.lists(steps, min_size=12, max_size=25)


@pytest.mark.broker
@_few
@given(drawn=_long, versions=st.booleans(), happens=happenings)
def test_a_real_broker_must_not_know_an_interleaving_that_the_fake_one_does_not(
    real: SharedKafka,
    forgetful: Pipeline,
    drawn: list[tuple[str, Any]],
    versions: bool,
    happens: list[str | None],
) -> None:
    interleave(TriagedCrm(KafkaHarness(real), versions, happens), forgetful, drawn)


@pytest.mark.broker
@pytest.mark.long
@pytest.mark.timeout(900)
@_many
@given(drawn=_long, versions=st.booleans(), happens=happenings)
def test_a_real_broker_must_not_know_one_among_many_either(
    real: SharedKafka,
    forgetful: Pipeline,
    drawn: list[tuple[str, Any]],
    versions: bool,
    happens: list[str | None],
) -> None:
    interleave(TriagedCrm(KafkaHarness(real), versions, happens), forgetful, drawn)
