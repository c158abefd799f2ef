"""How each kind of fault is done, and undone."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

from models.registry.versions import ModelRegistry
from tests.faults.environment import SMALL, FaultEnvironment
from tests.faults.foreign import ForeignProducer
from tests.faults.members import ConsumerMember, together
from tests.faults.proxy import Mode, Proxy
from tests.faults.schedule import Fault, Protocol
from tests.faults.score_sink import SinkMember
from tests.faults.topic_settings import change_settings
from tests.integration.running import Stage
from tests.trained_models import TRUST

JUMP_SECONDS = 3600
SLOW_SECONDS = 0.4
# To every question at once: an outage. One of these to a single question costs one schema id.
ODD_ANSWERS = (
    b"null",
    b"{}",
    b'{"schema": 7}',
    b"<html>",
    b'"text"',
    b"[1, 2]",
    b"",
    b'{"id": "1"}',
    b'{"id": true, "schema": null}',
    b"[" * 5000,
)
_LETTERS = {**SMALL, "cleanup.policy": "delete"}


class Inflicter:
    """Does the faults of one run to its parts."""

    def __init__(
        self,
        environment: FaultEnvironment,
        stage: Stage,
        members: Sequence[ConsumerMember],
        sink: SinkMember,
        protocol: Protocol = "classic",
    ) -> None:
        self._environment, self._stage, self._members = environment, stage, members
        self._sink, self._protocol = sink, protocol
        self._foreign = ForeignProducer(stage)
        self._models = ModelRegistry(stage.environment["MODEL_STORE"], TRUST)
        self._kinds: Mapping[str, Callable[[Fault], AbstractContextManager[object]]] = {
            "kill": lambda fault: self._away([fault.target], ConsumerMember.kill),
            "term": lambda fault: self._away([fault.target], ConsumerMember.stop),
            "rolling": lambda _: self._rolled(),
            "scale": lambda _: self._away(range(1, len(members)), ConsumerMember.stop),
            "freeze": self._frozen,
            "full log": self._full_log,
            "twin": self._twin,
            "switch": lambda _: self._switched(),
            "clock": self._jumped,
            "broker restart": lambda fault: self._broker(fault.target, orderly=True),
            "broker kill": lambda fault: self._broker(fault.target, orderly=False),
            "broker loss": lambda fault: self._broker(fault.target, orderly=False),
            "database down": lambda _: self._no_database(),
            "database slow": lambda _: _behind(environment.database, "slow"),
            "database refusing": lambda _: _behind(environment.database, "refuse"),
            "database stalled": lambda _: _behind(environment.database, "stall"),
            "registry 500": lambda _: self._failing_registry(),
            "registry odd": self._odd_registry,
            "registry slow": lambda _: _behind(environment.registry_gate, "slow"),
            "registry refusing": lambda _: _behind(environment.registry_gate, "refuse"),
            "promote": lambda _: self._moved(self._promote),
            "roll back": lambda _: self._moved(self._roll_back),
            "full disk": lambda _: self._moved(self._full_disk),
            "transaction open": lambda _: self._foreign.transaction(commits=True),
            "transaction aborted": lambda _: self._foreign.transaction(commits=False),
            "odd batches": lambda _: self._moved(self._foreign.odd_batches),
            "letters small": lambda _: self._letters({"max.message.bytes": "3000"}),
            "letters keyed": lambda _: self._letters({"cleanup.policy": "compact"}),
            "sink kill": lambda _: self._sink_away(SinkMember.kill),
            "sink term": lambda _: self._sink_away(SinkMember.stop),
            "sink freeze": lambda _: self._sink_frozen(),
        }

    def during(self, fault: Fault) -> AbstractContextManager[object]:
        """The fault lasts as long as the block."""
        return self._kinds[fault.kind](fault)

    @contextlib.contextmanager
    def _away(
        self, targets: Sequence[int], end: Callable[[ConsumerMember], None]
    ) -> Iterator[None]:
        members = [self._members[i] for i in targets]
        with _all(member.lock for member in members):
            together([partial(end, member) for member in members])
            yield
            for member in members:
                member.start()

    @contextlib.contextmanager
    def _rolled(self) -> Iterator[None]:
        """Each in turn is stopped in order and replaced, and is ready before the next is stopped:
        an upgrade.
        """
        for member in self._members:
            with member.lock:
                member.stop()
                member.start()
                member.until_ready()
        yield

    @contextlib.contextmanager
    def _frozen(self, fault: Fault) -> Iterator[None]:
        member = self._members[fault.target]
        with member.lock:
            member.freeze()
            try:
                yield
            finally:
                member.thaw()

    @contextlib.contextmanager
    def _full_log(self, fault: Fault) -> Iterator[None]:
        member = self._members[fault.target]
        with member.lock, member.full_log():
            yield

    @contextlib.contextmanager
    def _twin(self, fault: Fault) -> Iterator[None]:
        """A second process joins with the name of a member; both are ended, and one starts."""
        member = self._members[fault.target]
        with member.lock:
            member.start_next()
            try:
                yield
            finally:
                member.end_twins()
            member.start()

    @contextlib.contextmanager
    def _switched(self) -> Iterator[None]:
        """The group changes its protocol as the docs say: new processes start, old ones stop."""
        with _all(member.lock for member in self._members):
            self._protocol = "classic" if self._protocol == "consumer" else "consumer"
            for member in self._members:
                member.start_next(self._protocol)
            together([member.stop_old for member in self._members])
            yield

    @contextlib.contextmanager
    def _odd_registry(self, fault: Fault) -> Iterator[None]:
        """Every answer is one that no registry gives."""
        self._environment.registry.answer = ODD_ANSWERS[int(fault.at * 100) % len(ODD_ANSWERS)]
        try:
            yield
        finally:
            self._environment.registry.answer = None

    @contextlib.contextmanager
    def _letters(self, settings: dict[str, str]) -> Iterator[None]:
        """The topic of the dead letters accepts less for a while."""
        topic = self._stage.topics.dead_letters
        change_settings(self._stage.bootstrap, topic, settings)
        try:
            yield
        finally:
            change_settings(self._stage.bootstrap, topic, _LETTERS)

    @contextlib.contextmanager
    def _sink_away(self, end: Callable[[SinkMember], None]) -> Iterator[None]:
        with self._sink.lock:
            end(self._sink)
            yield
            self._sink.start()

    @contextlib.contextmanager
    def _sink_frozen(self) -> Iterator[None]:
        with self._sink.lock:
            self._sink.signal(signal.SIGSTOP)
            try:
                yield
            finally:
                self._sink.signal(signal.SIGCONT)

    @contextlib.contextmanager
    def _jumped(self, fault: Fault) -> Iterator[None]:
        """An hour on for the first consumer, an hour back for the others, and right again."""
        member = self._members[fault.target]
        with member.lock:
            member.jump(-JUMP_SECONDS if fault.target else JUMP_SECONDS)
            try:
                yield
            finally:
                member.jump(0)

    @contextlib.contextmanager
    def _broker(self, target: int, *, orderly: bool) -> Iterator[None]:
        node = self._environment.kafka.nodes[target]
        node.stop() if orderly else node.kill()
        try:
            yield
        finally:
            node.start(seconds=120)

    @contextlib.contextmanager
    def _no_database(self) -> Iterator[None]:
        self._environment.postgres.kill()
        try:
            yield
        finally:
            self._environment.postgres.start()

    @contextlib.contextmanager
    def _failing_registry(self) -> Iterator[None]:
        self._environment.registry.failure = 500
        try:
            yield
        finally:
            self._environment.registry.failure = None

    @contextlib.contextmanager
    def _moved(self, move: Callable[[], None]) -> Iterator[None]:
        """A step that does not end."""
        move()
        yield

    def _promote(self) -> None:
        present = self._models.resolve()
        self._models.promote(
            next(version for version in self._models.versions() if version != present)
        )

    def _roll_back(self) -> None:
        present = self._models.alias()
        if present and present.previous:
            self._models.rollback()

    def _full_disk(self) -> None:
        """Somebody promotes while the store's disk takes no byte more: it must fail, and the alias
        stay whole.
        """
        before = self._models.alias()
        other = next(v for v in self._models.versions() if before is None or v != before.version)
        ran = subprocess.run(
            # No file of the process may grow: every write into the store fails, as on a full disk.
            [
                "sh",
                "-c",
                'ulimit -f 0; exec "$@"',
                "sh",
                sys.executable,
                "-m",
                "leadstream.cli.main",
                "models",
                "promote",
                other,
            ],
            env=self._writer(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if ran.returncode != 1 or "Traceback" in ran.stderr or self._models.alias() != before:
            raise AssertionError(
                f"promoting on a full disk ended with {ran.returncode}: {ran.stderr or ran.stdout}"
            )

    def _writer(self) -> dict[str, str]:
        own = ("MODEL_STORE", "LEADSTREAM_MODEL_VERIFY_KEYS")
        return {
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "1",
            **{name: self._stage.environment[name] for name in own},
        }


@contextlib.contextmanager
def _behind(proxy: Proxy, mode: Mode) -> Iterator[None]:
    proxy.set(mode, SLOW_SECONDS)
    try:
        yield
    finally:
        proxy.set("pass")


@contextlib.contextmanager
def _all(locks: Iterator[threading.Lock]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        yield
