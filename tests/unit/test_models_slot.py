import gc
import json
import shutil
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from features import columns_of
from leadstream.background import Worker, inline
from leadstream.errors import Transient, UserError
from models.registry.slot import RETRY_SECONDS, ChallengerSlot, ModelSlot
from models.registry.store import Store
from models.registry.versions import Alias, ModelRegistry
from models.serve.refused import Refused
from models.serve.scorer import Model
from tests.fakes import ManualClock
from tests.trained_models import TRUST, trained

pytestmark = pytest.mark.slow


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
    start_line = threading.Barrier(64)
    got: list[Model] = []

    def ask() -> None:
        start_line.wait()
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
    clock = ManualClock()
    slot = ModelSlot(registry, clock=clock, clock_ms=lambda: int(clock.now * 1000), run=inline)
    old = weakref.ref(slot.get())
    registry.promote("1.1.0")
    clock.now += 1.0
    assert slot.refresh() is True
    assert slot.get().version == "1.1.0"
    assert slot.loaded_since == 101_000
    gc.collect()
    assert old() is None


def test_the_alias_is_read_at_most_once_a_second(registry: Counting) -> None:
    clock = ManualClock()
    slot = ModelSlot(registry, clock=clock, run=inline)
    slot.get()
    for _ in range(1000):
        clock.now += 0.01
        assert slot.refresh() is False
    assert registry.looked <= 11
    assert registry.loaded == 1


def test_a_version_that_does_not_verify_is_refused_once_and_the_present_one_serves(
    registry: Counting,
) -> None:
    clock = ManualClock()
    slot = ModelSlot(registry, clock=clock, run=inline)
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
    clock = ManualClock()
    slot = ModelSlot(registry, clock=clock, run=inline)
    slot.get()
    registry.promote("1.1.0")
    full = Store(registry.url).read("versions/1.1.0/model.joblib") or b""
    Store(registry.url).replace("versions/1.1.0/model.joblib", b"damaged")
    clock.now += 1.0
    slot.refresh()
    registry.rollback()
    clock.now += 1.0
    assert slot.refresh() is False
    assert slot.refused is None
    Store(registry.url).replace("versions/1.1.0/model.joblib", full)
    registry.promote("1.1.0")
    clock.now += 1.0
    assert slot.refresh() is True


@pytest.mark.parametrize(
    "alias", [b'{"version": "9.9.9", "previous": [], "moved_at": 1}', b"not JSON"]
)
def test_an_alias_that_leads_nowhere_keeps_the_present_model(
    registry: Counting, alias: bytes
) -> None:
    clock = ManualClock()
    slot = ModelSlot(registry, clock=clock, run=inline)
    present = slot.get()
    Store(registry.url).replace("aliases/champion.json", alias)
    clock.now += 1.0
    assert slot.refresh() is False
    assert slot.get() is present
    assert slot.refused


def test_a_store_that_is_down_keeps_the_present_model_and_is_followed_again_after(
    registry: Counting,
) -> None:
    clock = ManualClock()
    slot = ModelSlot(registry, clock=clock, run=inline)
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
    assert (
        registry.looked == 0
    )  # a store that is silent takes seconds to say so, and the batches would wait
    registry.down = False
    clock.now += 10.0
    assert slot.refresh() is True


def test_a_version_that_takes_long_to_check_holds_up_nobody_and_is_taken_whole(
    registry: Counting,
) -> None:
    clock, works = ManualClock(), list[Callable[[], None]]()
    slot = ModelSlot(registry, clock=clock, run=works.append)
    present = slot.get()
    registry.promote("1.1.0")
    registry.loaded = 0
    for _ in range(20):
        clock.now += 1.0
        assert slot.refresh() is False
        assert slot.get() is present
    [check] = works
    assert registry.loaded == 0
    check()
    assert slot.get() is present
    assert slot.refresh() is True
    assert (slot.get().version, registry.loaded, slot.refused) == ("1.1.0", 1, None)


def idle(worker: Worker) -> None:
    """Wait until a worker has done what it was given before."""
    done = threading.Event()
    worker(done.set)
    assert done.wait(30)


def test_a_version_is_checked_in_another_thread_than_the_one_that_scores(
    registry: Counting,
) -> None:
    clock = ManualClock()
    entered, checked = threading.Event(), threading.Event()
    verify = registry.verify

    def slow(version: str) -> Model:
        entered.set()
        assert checked.wait(30)
        return verify(version)

    worker = Worker("models")
    slot = ModelSlot(registry, clock=clock, run=worker)
    present = slot.get()
    registry.promote("1.1.0")
    registry.verify = slow  # type: ignore[method-assign]
    clock.now += 1.0
    assert slot.refresh() is False
    assert entered.wait(30)
    golden = present.manifest["golden"]
    columns, as_of = (
        columns_of([row["state"] for row in golden]),
        np.array([row["as_of"] for row in golden]),
    )
    assert slot.get().score(columns, as_of).raw.tolist() == [row["raw"] for row in golden]
    checked.set()
    idle(worker)
    old = weakref.ref(present)
    del present
    assert slot.refresh() is True
    gc.collect()
    assert old() is None


def test_a_version_that_was_rolled_back_while_it_was_checked_never_serves(
    registry: Counting,
) -> None:
    clock = ManualClock()
    slot = ModelSlot(registry, clock=clock, run=inline)
    present = slot.get()
    registry.promote("1.1.0")
    verify = registry.verify

    def overtaken(version: str) -> Model:
        registry.verify = verify  # type: ignore[method-assign]
        registry.rollback()
        return verify(version)

    registry.verify = overtaken  # type: ignore[method-assign]
    clock.now += 1.0
    assert slot.refresh() is False
    assert slot.get() is present
    assert slot.refused is None


def test_of_two_moves_in_quick_succession_only_the_last_one_serves(registry: Counting) -> None:
    registry.publish(trained(3))
    clock = ManualClock()
    slot = ModelSlot(registry, clock=clock, run=inline)
    slot.get()
    registry.promote("1.1.0")
    verify = registry.verify

    def overtaken(version: str) -> Model:
        model = verify(version)
        if version == "1.1.0":
            registry.verify = verify  # type: ignore[method-assign]
            registry.promote("1.2.0")
        return model

    registry.verify = overtaken  # type: ignore[method-assign]
    clock.now += 1.0
    assert slot.refresh() is True
    assert slot.get().version == "1.2.0"


def test_an_alias_that_cannot_be_read_when_its_version_is_checked_is_read_again(
    registry: Counting,
) -> None:
    clock = ManualClock()
    slot = ModelSlot(registry, clock=clock, run=inline)
    slot.get()
    registry.promote("1.1.0")
    full, verify = Store(registry.url).read("aliases/champion.json") or b"", registry.verify

    def damaged(version: str) -> Model:
        Store(registry.url).replace("aliases/champion.json", b"not JSON")
        return verify(version)

    registry.verify = damaged  # type: ignore[method-assign]
    clock.now += 1.0
    assert slot.refresh() is False
    assert slot.refused
    Store(registry.url).replace("aliases/champion.json", full)
    registry.verify = verify  # type: ignore[method-assign]
    clock.now += 1.0
    assert slot.refresh() is True


def test_a_bug_in_the_thread_is_a_bug_of_the_process(
    registry: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    slot = ModelSlot(registry, clock=clock, run=inline)
    slot.get()
    registry.promote("1.1.0")

    def broken(_version: str) -> Model:
        raise ZeroDivisionError

    monkeypatch.setattr(registry, "verify", broken)
    clock.now += 1.0
    with pytest.raises(ZeroDivisionError):
        slot.refresh()


def test_a_first_version_that_does_not_verify_is_an_error_not_an_empty_slot(
    registry: Counting,
) -> None:
    Store(registry.url).replace("versions/1.0.0/model.joblib", b"damaged")
    with pytest.raises(Refused):
        ModelSlot(registry).get()


@pytest.mark.slow
def test_two_hundred_swaps_leave_no_model_behind(
    registry: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {"1.0.0": trained(1), "1.1.0": trained(2)}
    manifests = {version: registry.show(version) for version in contents}
    monkeypatch.setattr(registry, "verify", lambda v: Model(contents[v].artifact, manifests[v]))
    clock = ManualClock()
    slot = ModelSlot(registry, clock=clock, run=inline)
    seen = weakref.WeakSet([slot.get()])
    for i in range(200):
        alias: dict[str, object] = {
            "version": ("1.1.0", "1.0.0")[i % 2],
            "previous": [],
            "moved_at": i,
        }
        Store(registry.url).replace("aliases/champion.json", json.dumps(alias).encode())
        clock.now += 1.0
        assert slot.refresh() is True
        seen.add(slot.get())
    gc.collect()
    assert len(seen) == 1


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def rival(registry: Counting, clock: ManualClock) -> ChallengerSlot:
    """A slot for a challenger of 1.0.0."""
    return ChallengerSlot(registry, clock=clock, clock_ms=lambda: int(clock.now * 1000), run=inline)


def followed(rival: ChallengerSlot, clock: ManualClock, champion: str = "1.0.0") -> str | None:
    """The version of the challenger a second later."""
    clock.now += 1.0
    model = rival.follow(champion)
    return model.version if model else None


def test_without_the_alias_there_is_no_challenger_and_no_complaint(
    rival: ChallengerSlot, clock: ManualClock
) -> None:
    assert followed(rival, clock) is None
    assert (rival.refused, rival.unanswered) == (None, None)


def test_a_challenger_comes_and_goes_with_its_alias_and_is_freed(
    registry: Counting, rival: ChallengerSlot, clock: ManualClock
) -> None:
    registry.promote("1.1.0", "challenger")
    registry.loaded = 0
    assert [followed(rival, clock) for _ in range(5)] == ["1.1.0"] * 5
    assert (registry.loaded, rival.loaded_since) == (1, 101_000)
    gone = weakref.ref(rival.loaded)
    registry.retire("challenger")
    assert followed(rival, clock) is None
    gc.collect()
    assert gone() is None


def test_the_alias_of_a_challenger_is_read_at_most_once_a_second(
    registry: Counting, rival: ChallengerSlot, clock: ManualClock
) -> None:
    registry.promote("1.1.0", "challenger")
    registry.looked = 0
    for _ in range(1000):
        clock.now += 0.01
        rival.follow("1.0.0")
    assert registry.looked <= 11


def test_a_champion_must_not_challenge_itself_from_the_very_batch_on_that_it_serves(
    registry: Counting, rival: ChallengerSlot, clock: ManualClock
) -> None:
    registry.promote("1.1.0", "challenger")
    assert followed(rival, clock) == "1.1.0"
    assert rival.follow("1.1.0") is None
    assert followed(rival, clock, champion="1.1.0") is None
    assert rival.refused is None
    assert followed(rival, clock, champion="1.0.0") == "1.1.0"


def test_a_challenger_that_does_not_verify_is_refused_once_and_the_one_before_goes_on(
    registry: Counting, rival: ChallengerSlot, clock: ManualClock
) -> None:
    registry.publish(trained(3))
    registry.promote("1.1.0", "challenger")
    assert followed(rival, clock) == "1.1.0"
    registry.promote("1.2.0", "challenger")
    Store(registry.url).replace("versions/1.2.0/model.joblib", b"damaged")
    registry.loaded = 0
    assert [followed(rival, clock) for _ in range(5)] == ["1.1.0"] * 5
    assert registry.loaded == 1
    assert rival.refused is not None
    assert rival.refused.startswith("model version 1.2.0: its artifact has size")
    registry.rollback("challenger")
    assert followed(rival, clock) == "1.1.0"
    assert rival.refused is None


def test_the_first_challenger_is_waited_for_and_the_next_is_not(
    registry: Counting, clock: ManualClock
) -> None:
    works = list[Callable[[], None]]()
    rival = ChallengerSlot(registry, clock=clock, run=works.append)
    registry.publish(trained(3))
    registry.promote("1.1.0", "challenger")
    assert (
        followed(rival, clock) == "1.1.0"
    )  # nothing flows before it: no lead of its share goes to the champion
    registry.promote("1.2.0", "challenger")
    asked: list[str] = []
    for step in ("look", "check"):
        assert followed(rival, clock) == followed(rival, clock) == "1.1.0"
        assert len(works) == 1, step
        works.pop()()
        rival.follow("1.0.0", lambda: asked.append("topic"))
    assert (rival.loaded and rival.loaded.version, asked) == ("1.2.0", ["topic"])


def test_a_challenger_that_was_retired_while_it_was_checked_never_serves(
    registry: Counting, clock: ManualClock
) -> None:
    works = list[Callable[[], None]]()
    rival = ChallengerSlot(registry, clock=clock, run=works.append)
    assert followed(rival, clock) is None
    registry.promote("1.1.0", "challenger")
    followed(rival, clock)
    works.pop()()
    followed(rival, clock)
    registry.retire("challenger")
    works.pop()()
    assert followed(rival, clock) is None
    assert (rival.refused, rival.unanswered) == (None, None)


@pytest.mark.parametrize(
    "alias", [b'{"version": "9.9.9", "previous": [], "moved_at": 1}', b"not JSON"]
)
def test_an_alias_of_a_challenger_that_leads_nowhere_is_a_complaint_and_no_error(
    registry: Counting, rival: ChallengerSlot, clock: ManualClock, alias: bytes
) -> None:
    Store(registry.url).replace("aliases/challenger.json", alias)
    assert [followed(rival, clock) for _ in range(3)] == [None] * 3
    assert rival.refused


def test_a_store_that_is_down_keeps_the_challenger_and_is_asked_again_later(
    registry: Counting, rival: ChallengerSlot, clock: ManualClock
) -> None:
    registry.promote("1.1.0", "challenger")
    assert followed(rival, clock) == "1.1.0"
    registry.down = True
    registry.looked = 0
    assert [followed(rival, clock) for _ in range(10)] == ["1.1.0"] * 10
    assert (registry.looked, rival.unanswered) == (1, "model store: down")
    registry.down = False
    clock.now += RETRY_SECONDS
    assert followed(rival, clock) == "1.1.0"
    assert rival.unanswered is None


def test_what_stands_in_the_way_is_asked_before_a_challenger_is_loaded_and_again_later(
    registry: Counting, rival: ChallengerSlot, clock: ManualClock
) -> None:
    registry.promote("1.1.0", "challenger")
    registry.loaded = 0
    assert rival.follow("1.0.0", lambda: "no topic") is None
    assert (rival.unanswered, registry.loaded) == ("no topic", 0)
    clock.now += RETRY_SECONDS
    assert rival.follow("1.0.0", lambda: None) is not None
    assert rival.unanswered is None


def test_a_challenger_that_was_withdrawn_stays_away_until_its_alias_moves(
    registry: Counting, rival: ChallengerSlot, clock: ManualClock
) -> None:
    registry.publish(trained(3))
    registry.promote("1.1.0", "challenger")
    assert followed(rival, clock) == "1.1.0"
    rival.withdraw("it cannot score")
    assert [followed(rival, clock) for _ in range(3)] == [None] * 3
    assert rival.refused == "it cannot score"
    registry.promote("1.2.0", "challenger")
    assert followed(rival, clock) == "1.2.0"
    assert rival.refused is None


def test_a_store_that_vanished_must_not_look_like_one_that_says_nothing_new(
    registry: Counting,
) -> None:
    clock = ManualClock()
    slot = ModelSlot(registry, clock=clock, run=inline)
    model = slot.get()
    shutil.move(registry.url, f"{registry.url}-away")
    for _ in range(3):
        clock.now += 100
        slot.refresh()
        slot.refresh()
    assert slot.loaded is model
    assert slot.unanswered is not None
    assert "is gone from" in slot.unanswered or "model store" in slot.unanswered
    shutil.move(f"{registry.url}-away", registry.url)
    clock.now += 100
    slot.refresh()
    slot.refresh()
    assert slot.unanswered is None
