import gc
import json
import threading
import weakref
from pathlib import Path

import pytest

from leadstream.errors import Transient, UserError
from models.refused import Refused
from models.registry import Alias, ModelRegistry
from models.scorer import Model
from models.slot import ModelSlot
from models.store import Store
from tests.trained import TRUST, trained


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Counting(ModelRegistry):
    """A registry that counts what it is asked, and can be cut off."""

    def __init__(self, url: str) -> None:
        super().__init__(url, TRUST)
        self.looked = self.loaded = 0
        self.down = False

    def alias(self, name: str = "champion") -> Alias | None:
        self.looked += 1
        if self.down:
            raise Transient("model store", "down")
        return super().alias(name)

    def verify(self, version: str) -> Model:
        self.loaded += 1
        return super().verify(version)


@pytest.fixture
def registry(tmp_path: Path) -> Counting:
    """Two versions, the first one promoted."""
    registry = Counting(str(tmp_path))
    registry.publish(trained(1))
    registry.publish(trained(2))
    registry.promote("1.0.0")
    registry.looked = registry.loaded = 0
    return registry


def test_64_threads_that_ask_at_once_cause_one_load(registry: Counting) -> None:
    slot = ModelSlot(registry)
    barrier = threading.Barrier(64)
    got: list[Model] = []

    def ask() -> None:
        barrier.wait()
        got.append(slot.get())

    threads = [threading.Thread(target=ask) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 64
    assert {id(model) for model in got} == {id(slot.get())}
    assert registry.loaded == 1


def test_without_a_promoted_version_the_slot_says_what_to_do(tmp_path: Path) -> None:
    slot = ModelSlot(ModelRegistry(str(tmp_path), TRUST))
    with pytest.raises(UserError, match="run `leadstream train`"):
        slot.get()
    assert slot.loaded is None
    assert slot.refresh() is False


def test_a_first_load_that_failed_is_tried_again(registry: Counting) -> None:
    slot = ModelSlot(registry)
    registry.down = True
    with pytest.raises(Transient):
        slot.get()
    registry.down = False
    assert slot.get().version == "1.0.0"


def test_a_moved_alias_swaps_the_model_and_frees_the_old_one(registry: Counting) -> None:
    clock = Clock()
    slot = ModelSlot(registry, clock=clock, clock_ms=lambda: int(clock.now * 1000))
    old = weakref.ref(slot.get())
    registry.promote("1.1.0")
    clock.now += 1.0
    assert slot.refresh() is True
    assert slot.get().version == "1.1.0"
    assert slot.loaded_since == 101_000
    gc.collect()
    assert old() is None


def test_the_alias_is_read_at_most_once_a_second(registry: Counting) -> None:
    clock = Clock()
    slot = ModelSlot(registry, clock=clock)
    slot.get()
    for _ in range(1000):
        clock.now += 0.01
        assert slot.refresh() is False
    assert registry.looked <= 11
    assert registry.loaded == 1


def test_a_version_that_does_not_verify_is_refused_once_and_the_present_one_serves(registry: Counting) -> None:
    clock = Clock()
    slot = ModelSlot(registry, clock=clock)
    present = slot.get()
    registry.promote("1.1.0")
    Store(registry.url).replace("versions/1.1.0/model.joblib", b"damaged")
    registry.loaded = 0
    for _ in range(5):
        clock.now += 1.0
        assert slot.refresh() is False
    assert registry.loaded == 1
    assert slot.get() is present
    assert slot.refused is not None
    assert slot.refused.startswith("model version 1.1.0: its artifact has size")


def test_a_refusal_ends_when_the_alias_moves_back_or_on(registry: Counting) -> None:
    clock = Clock()
    slot = ModelSlot(registry, clock=clock)
    slot.get()
    registry.promote("1.1.0")
    whole = Store(registry.url).read("versions/1.1.0/model.joblib") or b""
    Store(registry.url).replace("versions/1.1.0/model.joblib", b"damaged")
    clock.now += 1.0
    slot.refresh()
    registry.rollback()
    clock.now += 1.0
    assert slot.refresh() is False
    assert slot.refused is None
    Store(registry.url).replace("versions/1.1.0/model.joblib", whole)
    registry.promote("1.1.0")
    clock.now += 1.0
    assert slot.refresh() is True


@pytest.mark.parametrize("alias", [b'{"version": "9.9.9", "previous": [], "moved_at": 1}', b"not JSON"])
def test_an_alias_that_leads_nowhere_keeps_the_present_model(registry: Counting, alias: bytes) -> None:
    clock = Clock()
    slot = ModelSlot(registry, clock=clock)
    present = slot.get()
    Store(registry.url).replace("aliases/champion.json", alias)
    clock.now += 1.0
    assert slot.refresh() is False
    assert slot.get() is present
    assert slot.refused


def test_a_store_that_is_down_keeps_the_present_model_and_is_followed_again_after(registry: Counting) -> None:
    clock = Clock()
    slot = ModelSlot(registry, clock=clock)
    slot.get()
    registry.promote("1.1.0")
    registry.down = True
    clock.now += 1.0
    assert slot.refresh() is False
    assert (slot.get().version, slot.refused) == ("1.0.0", None)
    registry.looked = 0
    for _ in range(20):
        clock.now += 1.0
        assert slot.refresh() is False
    assert registry.looked == 0  # a store that is silent takes seconds to say so, and the batches would wait
    registry.down = False
    clock.now += 10.0
    assert slot.refresh() is True


def test_a_first_version_that_does_not_verify_is_an_error_not_an_empty_slot(registry: Counting) -> None:
    Store(registry.url).replace("versions/1.0.0/model.joblib", b"damaged")
    with pytest.raises(Refused):
        ModelSlot(registry).get()


def test_two_hundred_swaps_leave_no_model_behind(registry: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {"1.0.0": trained(1), "1.1.0": trained(2)}
    manifests = {version: registry.show(version) for version in contents}
    monkeypatch.setattr(registry, "verify", lambda v: Model(contents[v].artifact, manifests[v]))
    clock = Clock()
    slot = ModelSlot(registry, clock=clock)
    seen = weakref.WeakSet([slot.get()])
    for i in range(200):
        alias: dict[str, object] = {"version": ("1.1.0", "1.0.0")[i % 2], "previous": [], "moved_at": i}
        Store(registry.url).replace("aliases/champion.json", json.dumps(alias).encode())
        clock.now += 1.0
        assert slot.refresh() is True
        seen.add(slot.get())
    gc.collect()
    assert len(seen) == 1
