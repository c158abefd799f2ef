import gc
import pickle
import weakref
from dataclasses import replace
from typing import Any

import pytest

from models.serve import artifact, pickles
from models.serve.refused import Refused
from tests.trained_models import trained


def published(**changes: Any) -> tuple[bytes, dict[str, Any]]:
    """A model's bytes and manifest as the registry writes them, with changed parts."""
    payload = artifact.dump({**trained().artifact, **changes})
    return payload, {
        **trained().manifest,
        "version": "1.0.0",
        "artifact": artifact.describe(payload),
    }


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("import tests.unit.test_models_artifact as t; t.EXPLODED.append(1)",)


EXPLODED: list[int] = []


def test_what_was_published_loads_and_knows_its_version() -> None:
    payload, manifest = published()
    model = artifact.load(payload, manifest)
    assert (model.version, model.sha256, model.name) == (
        "1.0.0",
        manifest["artifact"]["sha256"],
        "random_forest",
    )


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"\x00" + b[1:], lambda _: b""]
)
def test_bytes_that_are_not_those_of_the_manifest_are_refused(damage: Any) -> None:
    payload, manifest = published()
    with pytest.raises(Refused, match=r"size|sha256"):
        artifact.load(damage(payload), manifest)


def test_a_swapped_artifact_is_refused_before_any_of_its_code_runs() -> None:
    _, manifest = published()
    malicious = pickle.dumps(Bomb())
    manifest["artifact"] = {
        **artifact.describe(malicious),
        "sha256": manifest["artifact"]["sha256"],
    }
    with pytest.raises(Refused, match="sha256"):
        artifact.load(malicious, manifest)
    assert EXPLODED == []


def test_an_artifact_of_another_scikit_learn_is_refused_before_it_is_unpickled() -> None:
    payload = pickle.dumps(Bomb())
    manifest = {**trained().manifest, "version": "1.0.0", "artifact": artifact.describe(payload)}
    manifest["libraries"] = {**manifest["libraries"], "scikit-learn": "0.24.2"}
    with pytest.raises(Refused, match=r"trained with scikit-learn 0\.24\.2, here is"):
        artifact.load(payload, manifest)
    assert EXPLODED == []


def test_a_patch_release_of_scikit_learn_apart_is_no_reason_to_refuse() -> None:
    payload, manifest = published()
    major, minor, _ = artifact.library_versions()["scikit-learn"].split(".")
    manifest["libraries"] = {**manifest["libraries"], "scikit-learn": f"{major}.{minor}.99"}
    assert artifact.load(payload, manifest)


def test_features_that_this_code_computes_differently_are_refused() -> None:
    features = replace(trained().artifact["features"], specification_hash="0" * 64)
    payload, manifest = published(features=features)
    with pytest.raises(Refused, match=r"specification .* train again"):
        artifact.load(payload, manifest)
    manifest["features"] = {**manifest["features"], "specification_hash": "0" * 64}
    with pytest.raises(Refused, match="specification"):
        artifact.load(payload, manifest)


@pytest.mark.parametrize("name", ["raw", "probability", "low", "high"])
def test_a_golden_row_one_bit_away_is_refused(name: str) -> None:
    payload, manifest = published()
    golden = [dict(row) for row in manifest["golden"]]
    golden[2][name] += 2**-52
    with pytest.raises(Refused, match=f"golden row 3 comes out with {name}"):
        artifact.load(payload, {**manifest, "golden": golden})


@pytest.mark.parametrize("key", artifact.KEYS)
def test_an_artifact_without_one_of_its_parts_is_refused_by_name(key: str) -> None:
    payload = artifact.dump(
        {name: part for name, part in trained().artifact.items() if name != key}
    )
    manifest = {**trained().manifest, "version": "1.0.0", "artifact": artifact.describe(payload)}
    with pytest.raises(Refused, match=f"lacks {key}"):
        artifact.load(payload, manifest)


@pytest.mark.parametrize(
    "payload", [b"", b"no pickle at all", artifact.dump({})[:20], pickle.dumps([1, 2])]
)
def test_bytes_that_are_no_artifact_are_refused_though_the_digest_is_right(payload: bytes) -> None:
    manifest = {**trained().manifest, "version": "1.0.0", "artifact": artifact.describe(payload)}
    with pytest.raises(Refused, match="its artifact"):
        artifact.load(payload, manifest)


@pytest.mark.parametrize("key", ["manifest_version", "artifact", "libraries", "features", "golden"])
def test_a_manifest_without_one_of_its_parts_is_refused_not_a_crash(key: str) -> None:
    payload, manifest = published()
    with pytest.raises(Refused):
        artifact.load(payload, {name: part for name, part in manifest.items() if name != key})


def test_a_manifest_of_a_later_version_of_this_code_is_refused() -> None:
    payload, manifest = published()
    with pytest.raises(Refused, match="its manifest has version 2, this code reads 1"):
        artifact.load(payload, {**manifest, "manifest_version": 2})


def test_a_file_that_waited_for_the_garbage_collector_would_add_up_over_swaps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readers = []

    class WatchedReader(pickles._PickleReader):
        def __init__(self, data: bytes) -> None:
            super().__init__(data)
            readers.append(weakref.ref(self))

    monkeypatch.setattr(pickles, "_PickleReader", WatchedReader)
    gc.disable()
    try:
        artifact.unpack(artifact.dump(trained().artifact))
        [reader] = readers
        assert reader() is None
    finally:
        gc.enable()


def test_a_moved_class_would_make_published_artifacts_unreadable_but_for_its_fixed_name() -> None:
    _, names = pickles.read(artifact.dump(trained().artifact))
    assert {name for name in names if name.startswith("models.")} == {
        "models.calibrate.Calibrator",
        "models.venn_abers.VennAbers",
    }


def test_a_calibrator_that_this_code_does_not_have_is_refused_and_not_taken_for_another() -> None:
    payload, manifest = published(calibrator=replace(trained().artifact["calibrator"], name="new"))
    with pytest.raises(Refused, match="calibrator 'new' is unknown"):
        artifact.load(payload, manifest)
