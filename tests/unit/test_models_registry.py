import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from leadstream.errors import SettingsError, Transient, UserError
from models.registry.store import Store
from models.registry.versions import ModelRegistry
from models.serve.refused import Refused
from tests.trained_models import TRUST, trained

pytestmark = pytest.mark.slow


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty store: a folder, a store without folders, renames or links, and S3 as a server
    speaks it.
    """
    if request.param != "memory":
        yield (
            str(tmp_path / "models")
            if request.param == "folder"
            else request.getfixturevalue("bucket")
        )
        return
    name = uuid4().hex
    yield f"memory://{name}"
    memory = fsspec.filesystem("memory")
    if memory.exists(f"/{name}"):
        memory.rm(f"/{name}", recursive=True)


def test_versions_count_up_and_the_aliases_stay_where_they_are(url: str) -> None:
    registry = ModelRegistry(url, TRUST)
    assert (registry.versions(), registry.resolve()) == ([], None)
    assert [registry.publish(trained(seed)) for seed in (1, 2)] == ["1.0.0", "1.1.0"]
    assert registry.versions() == ["1.0.0", "1.1.0"]
    assert registry.resolve() is None


def test_versions_are_ordered_by_number_not_by_text(url: str) -> None:
    store = Store(url)
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        store.create(f"versions/{version}/model.joblib", b"")
        store.replace(f"versions/{version}/manifest.json", b"{}")
    store.create("versions/latest/manifest.json", b"{}")
    assert ModelRegistry(url, TRUST).versions() == ["1.2.0", "1.9.0", "1.10.0"]
    assert ModelRegistry(url, TRUST).publish(trained()) == "1.11.0"


def test_a_version_without_a_manifest_does_not_exist_and_is_never_written_over(url: str) -> None:
    Store(url).create("versions/1.0.0/model.joblib", b"half")
    registry = ModelRegistry(url, TRUST)
    assert registry.versions() == []
    with pytest.raises(UserError, match=r"no model version 1\.0\.0"):
        registry.promote("1.0.0")
    assert registry.publish(trained()) == "1.1.0"
    assert Store(url).read("versions/1.0.0/model.joblib") == b"half"


def test_publishers_at_the_same_moment_get_versions_of_their_own(url: str) -> None:
    start_line = threading.Barrier(4)
    versions: list[str] = []

    def publish(seed: int) -> None:
        registry = ModelRegistry(url, TRUST)
        start_line.wait()
        versions.append(registry.publish(trained(seed)))

    trained(1), trained(2)
    threads = [threading.Thread(target=publish, args=(1 + i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]
    for version in versions:
        assert ModelRegistry(url, TRUST).verify(version).version == version


def test_promote_and_roll_back_move_the_alias_and_write_each_move_down(url: str) -> None:
    ticks = iter(range(1000, 9000))
    registry = ModelRegistry(url, TRUST, clock_ms=lambda: next(ticks))
    for seed in (1, 2, 1):
        registry.publish(trained(seed))
    assert [registry.promote(v) for v in ("1.0.0", "1.1.0", "1.2.0")] == [None, "1.0.0", "1.1.0"]
    assert registry.promote("1.2.0") == "1.2.0"
    assert [registry.rollback(), registry.resolve(), registry.rollback()] == [
        "1.1.0",
        "1.1.0",
        "1.0.0",
    ]
    with pytest.raises(UserError, match="no earlier version"):
        registry.rollback()
    moves = [(move["action"], move["from"], move["to"]) for move in registry.log()]
    assert moves == [
        ("promote", None, "1.0.0"),
        ("promote", "1.0.0", "1.1.0"),
        ("promote", "1.1.0", "1.2.0"),
        ("rollback", "1.2.0", "1.1.0"),
        ("rollback", "1.1.0", "1.0.0"),
    ]


def test_a_rollback_to_a_version_that_does_not_verify_moves_nothing(url: str) -> None:
    registry, store = ModelRegistry(url, TRUST), Store(url)
    for seed in (1, 2):
        registry.promote(registry.publish(trained(seed)))
    signature = store.read("versions/1.1.0/manifest.sig") or b""
    store.replace("versions/1.0.0/manifest.sig", signature)
    moves = registry.log()
    with pytest.raises(Refused, match="is not that of its manifest"):
        registry.rollback()
    assert (registry.resolve(), registry.log()) == ("1.1.0", moves)


def test_an_alias_that_was_moved_by_hand_is_told_apart_from_a_logged_move(url: str) -> None:
    registry, store = ModelRegistry(url, TRUST), Store(url)
    assert registry.unlogged() is None
    for seed in (1, 2):
        registry.promote(registry.publish(trained(seed)))
        assert registry.unlogged() is None
    before = store.read("aliases/champion.json") or b""
    alias = json.loads(before)
    for change in ({"version": "1.0.0"}, {"moved_at": alias["moved_at"] + 1}):
        store.replace("aliases/champion.json", json.dumps(alias | change).encode())
        difference = registry.unlogged()
        assert difference is not None
        assert "but the last move in its log is to 1.1.0: somebody moved it by hand" in difference
    registry.rollback()
    assert registry.unlogged() is None
    store.replace("aliases/log/champion-9-x.json", b"[]")
    assert registry.unlogged() is None, "an entry that is none hides no other"


def test_a_signed_version_of_another_store_is_refused_here(tmp_path: Path) -> None:
    test, live = str(tmp_path / "test"), str(tmp_path / "live")
    for url in (test, live):
        ModelRegistry(url, TRUST).publish(trained(1))
    newer = ModelRegistry(test, TRUST).publish(trained(2))
    shutil.copytree(f"{test}/versions/{newer}", f"{live}/versions/{newer}")
    with pytest.raises(Refused, match="it was published to another store"):
        ModelRegistry(live, TRUST).promote(newer)
    # A copy of the whole store is that store.
    shutil.copytree(test, tmp_path / "copy")
    assert ModelRegistry(str(tmp_path / "copy"), TRUST).verify(newer).version == newer


def test_aliases_are_apart(url: str) -> None:
    registry = ModelRegistry(url, TRUST)
    registry.publish(trained(1))
    registry.publish(trained(2))
    registry.promote("1.0.0")
    registry.promote("1.1.0", "challenger")
    assert registry.aliases() == {"challenger": "1.1.0", "champion": "1.0.0"}


def test_a_retired_alias_points_nowhere_and_its_end_is_written_down(url: str) -> None:
    ticks = iter(range(1000, 9000))
    registry = ModelRegistry(url, TRUST, clock_ms=lambda: next(ticks))
    registry.publish(trained(1))
    registry.promote("1.0.0")
    registry.promote("1.0.0", "challenger")
    assert registry.retire("challenger") == "1.0.0"
    assert registry.aliases() == {"champion": "1.0.0"}
    last = registry.log()[-1]
    assert (last["action"], last["alias"], last["from"], last["to"]) == (
        "retire",
        "challenger",
        "1.0.0",
        None,
    )
    assert registry.promote("1.0.0", "challenger") is None
    assert registry.resolve("challenger") == "1.0.0"


def test_the_champion_and_what_is_not_there_cannot_be_retired(url: str) -> None:
    registry = ModelRegistry(url, TRUST)
    registry.publish(trained(1))
    registry.promote("1.0.0")
    with pytest.raises(UserError, match="the champion cannot be retired"):
        registry.retire("champion")
    with pytest.raises(UserError, match="the alias challenger points to no version"):
        registry.retire("challenger")
    assert (registry.resolve(), len(registry.log())) == ("1.0.0", 1)


@pytest.mark.parametrize("name", ["", "../champion", "Champion", "a/b", "1", "x" * 64])
def test_an_alias_cannot_name_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is not an alias"):
        ModelRegistry(str(tmp_path), TRUST).resolve(name)


@pytest.mark.parametrize("version", ["", "1", "1.0", "01.0.0", "../../etc", "1.0.0/.."])
def test_what_is_no_version_is_not_looked_up(tmp_path: Path, version: str) -> None:
    with pytest.raises(UserError, match="there is no model version"):
        ModelRegistry(str(tmp_path), TRUST).show(version)


def test_a_version_that_does_not_verify_is_not_promoted(url: str) -> None:
    registry = ModelRegistry(url, TRUST)
    registry.publish(trained(1))
    registry.publish(trained(2))
    registry.promote("1.0.0")
    Store(url).replace("versions/1.1.0/model.joblib", b"something else")
    with pytest.raises(Refused, match=r"model version 1\.1\.0: its artifact has size"):
        registry.promote("1.1.0")
    assert registry.resolve() == "1.0.0"


@pytest.mark.parametrize("manifest", [b"", b"[]", b"{", b'{"version": "1.1.0"}'])
def test_a_damaged_manifest_is_refused_not_a_crash(url: str, manifest: bytes) -> None:
    registry = ModelRegistry(url, TRUST)
    registry.publish(trained())
    Store(url).replace("versions/1.0.0/manifest.json", manifest)
    with pytest.raises(Refused, match=r"model version 1\.0\.0: its manifest"):
        registry.verify("1.0.0")


def test_a_missing_artifact_is_refused_by_name(url: str) -> None:
    manifest = json.dumps({"version": "1.0.0"}).encode()
    Store(url).replace("versions/1.0.0/manifest.json", manifest)
    Store(url).replace("versions/1.0.0/manifest.sig", TRUST.sign(manifest) or b"")
    with pytest.raises(Refused, match="its artifact is missing"):
        ModelRegistry(url, TRUST).verify("1.0.0")


def test_a_damaged_alias_says_how_to_mend_it_and_promoting_mends_it(url: str) -> None:
    registry = ModelRegistry(url, TRUST)
    registry.publish(trained())
    Store(url).replace("aliases/champion.json", b"{}")
    with pytest.raises(Refused, match="promote a version again"):
        registry.resolve()
    registry.promote("1.0.0")
    assert registry.resolve() == "1.0.0"


def test_a_store_that_does_not_answer_is_transient_not_an_empty_store(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    registry = ModelRegistry(str(tmp_path / "models"), TRUST)
    for ask in (
        registry.resolve,
        registry.rollback,
        registry.versions,
        lambda: registry.publish(trained()),
    ):
        with pytest.raises(Transient, match=r"model store: .* does not answer"):
            ask()


@pytest.mark.parametrize("url", ["nosuch://bucket", "abfs://container/models"])
def test_a_url_that_nothing_here_can_read_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(SettingsError, match=f"MODEL_STORE={url}"):
        ModelRegistry(url, TRUST)


def test_a_reader_never_sees_half_an_alias(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    texts = [bytes([65 + i]) * 50_000 for i in range(2)]
    store.replace("aliases/x.json", texts[0])
    done = threading.Event()

    def write() -> None:
        for i in range(60):
            store.replace("aliases/x.json", texts[i % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = {store.read("aliases/x.json")}
    while not done.is_set():
        seen.add(store.read("aliases/x.json"))
    writer.join()
    assert seen <= set(texts)
    assert store.names("aliases") == ["x.json"]


def test_a_store_inside_the_source_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").touch()
    with pytest.raises(SettingsError, match=r"holds Python code.*\.leadstream/models"):
        Store(str(tmp_path))
