"""How each kind of fault is done, and undone."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

from models.registry.versions import ModelRegistry
from tests.faults.environment import FaultEnvironment
from tests.faults.members import ConsumerMember, together
from tests.faults.proxy import Mode, Proxy
from tests.faults.schedule import Fault
from tests.integration.running import Stage
from tests.trained_models import TRUST

JUMP_SECONDS = 3600
SLOW_SECONDS = 0.4


class Inflicter:
    """Does the faults of one run to its parts."""

    def __init__(
        self, environment: FaultEnvironment, stage: Stage, members: Sequence[ConsumerMember]
    ) -> None:
        self._environment, self._stage, self._members = environment, stage, members
        self._models = ModelRegistry(stage.environment["MODEL_STORE"], TRUST)
        self._kinds: Mapping[str, Callable[[Fault], AbstractContextManager[object]]] = {
            "kill": lambda fault: self._away([fault.target], ConsumerMember.kill),
            "term": lambda fault: self._away([fault.target], ConsumerMember.stop),
            "rolling": lambda _: self._rolled(),
            "scale": lambda _: self._away(range(1, len(members)), ConsumerMember.stop),
            "freeze": self._frozen,
            "clock": self._jumped,
            "broker restart": lambda fault: self._broker(fault.target, orderly=True),
            "broker kill": lambda fault: self._broker(fault.target, orderly=False),
            "broker loss": lambda fault: self._broker(fault.target, orderly=False),
            "database down": lambda _: self._no_database(),
            "database slow": lambda _: _behind(environment.database, "slow"),
            "database refusing": lambda _: _behind(environment.database, "refuse"),
            "database stalled": lambda _: _behind(environment.database, "stall"),
            "registry 500": lambda _: self._failing_registry(),
            "registry refusing": lambda _: _behind(environment.registry_gate, "refuse"),
            "promote": lambda _: self._moved(self._promote),
            "roll back": lambda _: self._moved(self._roll_back),
            "full disk": lambda _: self._moved(self._full_disk),
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
