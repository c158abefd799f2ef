"""Errors that end a client of Kafka: each is a new membership or one sentence."""

from typing import Any

import pytest
from confluent_kafka import KafkaError

from leadstream.backoff import Backoff
from leadstream.errors import Fenced, UserError
from leadstream.kafka.config import consumer_config
from leadstream.kafka.fatal import ended_client, is_fatal
from leadstream.kafka.source import KafkaSource
from leadstream.process.membership import keep_membership
from leadstream.process.status import Status
from leadstream.settings import load_settings

_CODES = sorted(
    value
    for name, value in vars(KafkaError).items()
    if isinstance(value, int) and not name.startswith("__")
)
PROPERTIES = {
    "group.id": "leads",
    "group.instance.id": "one",
    "group.protocol": "consumer",
    "group.remote.assignor": "odd",
}


def as_the_client_reports(code: int) -> KafkaError:
    """A fatal error as librdkafka puts it into the queue: with a code that says nothing."""
    cause = KafkaError(code).str()
    return KafkaError(
        KafkaError._FATAL, f"Fatal error: {cause}: ConsumerGroupHeartbeat fatal error: {cause}"
    )


@pytest.mark.parametrize("code", _CODES)
def test_no_fatal_error_may_leave_a_process_that_reads_nothing(code: int) -> None:
    error = as_the_client_reports(code)
    assert is_fatal(error)
    ended = ended_client(error, PROPERTIES)
    assert isinstance(ended, Fenced | UserError)
    assert str(ended)


@pytest.mark.parametrize(
    ("code", "kind", "named"),
    [
        (KafkaError.FENCED_INSTANCE_ID, UserError, "LEADSTREAM_KAFKA_GROUP_INSTANCE_ID=one"),
        (KafkaError.UNRELEASED_INSTANCE_ID, Fenced, "LEADSTREAM_KAFKA_GROUP_INSTANCE_ID=one"),
        (KafkaError.UNSUPPORTED_ASSIGNOR, UserError, "LEADSTREAM_KAFKA_GROUP_REMOTE_ASSIGNOR=odd"),
        (KafkaError.UNSUPPORTED_VERSION, UserError, "LEADSTREAM_KAFKA_GROUP_PROTOCOL=consumer"),
        (KafkaError.GROUP_ID_NOT_FOUND, Fenced, "members of the classic protocol"),
        (KafkaError.UNKNOWN_MEMBER_ID, Fenced, "Unknown member"),
    ],
)
def test_a_fatal_error_that_another_start_cannot_fix_ends_the_process_with_what_to_do(
    code: int, kind: type[Exception], named: str
) -> None:
    ended = ended_client(as_the_client_reports(code), PROPERTIES)
    assert type(ended) is kind
    assert named in str(ended)


def test_an_error_that_the_client_repairs_must_not_end_it() -> None:
    for code in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT):
        assert not is_fatal(KafkaError(code))


class _FatalMessage:
    def __init__(self, code: int) -> None:
        self._error = as_the_client_reports(code)

    def error(self) -> KafkaError:
        return self._error


class _EndedConsumer:
    """A consumer whose client was ended by an error."""

    def __init__(self, code: int) -> None:
        self._messages: list[Any] = [_FatalMessage(code)]

    def poll(self, _timeout: float) -> Any:
        return self._messages.pop() if self._messages else None

    def consume(self, _count: int, _timeout: float) -> list[Any]:
        return []

    def pause(self, _partitions: object) -> None: ...
    def resume(self, _partitions: object) -> None: ...


@pytest.mark.parametrize("call", ["poll", "idle"])
def test_a_client_that_ended_must_not_be_polled_for_ever(call: str) -> None:
    settings = load_settings({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, None)
    source = KafkaSource(consumer_config(settings), ["changes"], max_records=10, linger_ms=0)
    source.consumer.close()
    source.consumer = _EndedConsumer(KafkaError.GROUP_ID_NOT_FOUND)  # type: ignore[assignment]
    for _ in range(2):
        with pytest.raises(Fenced, match="the group leadstream still has members"):
            getattr(source, call)(0)


class _Memberships:
    """A loop whose memberships last `seconds` each and end as they are told."""

    def __init__(self, endings: list[Exception | None], seconds: float) -> None:
        self.endings, self.seconds = endings, seconds
        self.now, self.waits = 0.0, list[float]()
        self.lines: list[str] = []
        self.missing: list[str] = []
        self.stopping = False
        self.status = Status(lambda: self.now)

    def __call__(self) -> None:
        self.status.rebalanced("assigned", 2)
        self.now += self.seconds
        ending = self.endings.pop(0)
        if ending is not None:
            raise ending
        self.stopping = True

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.waits[-1] += seconds
        self.missing.append(self.status.missing()["assignment"])

    def warning(self, event: str, **fields: str) -> None:
        self.lines.append(fields["detail"])

    def rejoined(self) -> None:
        self.waits.append(0)

    def run(self) -> None:
        clock = lambda: self.now  # noqa: E731
        keep_membership(
            self,
            self,
            status=self.status,
            logger=self,  # type: ignore[arg-type]  # all that is called
            on_rejoin=self.rejoined,
            backoff=Backoff(clock, draw=lambda _low, _high: 1.0),
            clock=clock,
            wait=self.wait,
        )


def test_a_group_that_does_not_let_a_process_in_must_not_be_stormed() -> None:
    memberships = _Memberships([Fenced("no")] * 6 + [None], seconds=1)
    memberships.run()
    assert memberships.waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0])
    assert memberships.lines == ["no"], "one line, however often it is refused"
    assert set(memberships.missing) == {"no; the process joins again"}


def test_a_process_that_was_fenced_after_hours_of_work_rejoins_soon() -> None:
    memberships = _Memberships([Fenced("a"), Fenced("b"), Fenced("b"), None], seconds=3600)
    memberships.run()
    assert memberships.waits == pytest.approx([0.2, 0.2, 0.2])
    assert memberships.lines == ["a", "b", "b"]


def test_an_error_that_is_for_a_person_ends_the_memberships() -> None:
    with pytest.raises(UserError, match="two of one name"):
        _Memberships([UserError("two of one name")], seconds=1).run()


def test_a_member_that_lost_its_partitions_is_not_ready_until_it_is_assigned_again() -> None:
    status = Status()
    assert "has not joined" in status.missing()["assignment"]
    status.rebalanced("assigned", 3)
    assert not status.missing()
    assert not status.warnings()
    status.rebalanced("lost", 0)
    assert "lost its partitions" in status.missing()["assignment"]
    status.rebalanced("assigned", 0)
    assert not status.missing(), "a spare member heartbeats and is ready"
    assert "has no partition" in status.warnings()["partitions"]


def test_a_topic_that_exists_must_not_be_reported_as_missing_after_a_rejoin() -> None:
    status = Status()
    status.rebalanced("assigned", 1)
    status.absent(["crm.rescore-requests"])
    assert "crm.rescore-requests" in status.missing()["topics"]
    status.left("fenced")
    status.rebalanced("assigned", 1)
    assert not status.missing()
