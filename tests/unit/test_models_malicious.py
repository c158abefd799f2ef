"""A file in the model store runs no code, fills no memory and stops no process: it is refused in
one sentence.
"""

import contextlib
import json
import os
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features import columns_of
from leadstream.background import inline
from models.registry.signing import Trust
from models.registry.slot import ModelSlot
from models.registry.store import Store
from models.registry.versions import ModelRegistry
from models.serve import artifact, calibrators, venn_abers
from models.serve.refused import Refused
from models.serve.scorer import Model
from tests import malicious_artifacts as malicious
from tests.examples import examples
from tests.trained_models import SHARED_FOLDER, build_shared, trained

pytestmark = pytest.mark.slow

# The worst case: nothing is signed, and whoever wrote the file wrote a manifest that fits it.
UNSIGNED = Trust(unsigned=True)
CANARY = Path(os.environ[SHARED_FOLDER]) / "canary"


def _cases() -> dict[str, bytes]:
    kinds = {
        "code": malicious.code(CANARY),
        "tree": malicious.trees(),
        "bomb": malicious.bombs(),
        "cut": malicious.cut(),
        "wrong": malicious.wrong(),
    }
    return {
        f"{kind}: {name}": payload
        for kind, files in kinds.items()
        for name, payload in files.items()
    }


CASES = build_shared("malicious artifacts", _cases)
MANIFEST = {
    **trained().manifest,
    "version": "1.1.0",
    "artifact": artifact.describe(artifact.dump(trained().artifact)),
}


class Serving:
    """A slot with a good model, and a store whose next version somebody else writes."""

    def __init__(self, folder: Path) -> None:
        self.registry = ModelRegistry(str(folder), UNSIGNED)
        self.registry.promote(self.registry.publish(trained()))
        self.store = Store(str(folder))
        self.now = 0.0
        self.slot = ModelSlot(self.registry, clock=lambda: self.now, run=inline)
        self.model = self.slot.get()
        self.first_scores = self.scores()

    def scores(self) -> list[float]:
        golden = self.slot.get().manifest["golden"]
        as_of = np.array([row["as_of"] for row in golden])
        return list(
            self.slot.get().score(columns_of([row["state"] for row in golden]), as_of).probability
        )

    def meets(self, payload: bytes, manifest: bytes) -> str:
        """What is said of a version that the alias moves to, while the old one goes on to score."""
        self.store.replace("versions/1.1.0/model.joblib", payload)
        self.store.replace("versions/1.1.0/manifest.json", manifest)
        self.store.replace(
            "aliases/champion.json", b'{"version": "1.1.0", "previous": [], "moved_at": 1}'
        )
        self.slot._handled, self.slot.refused = None, None
        self.now += 5
        began = time.monotonic()
        assert self.slot.refresh() is False
        assert time.monotonic() - began < 30
        assert self.slot.get() is self.model
        assert self.scores() == self.first_scores
        assert self.slot.refused is not None
        return self.slot.refused


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    yield Serving(tmp_path_factory.mktemp("store"))
    assert not CANARY.exists()


def manifest_of(payload: bytes, **changes: Any) -> bytes:
    return json.dumps({**MANIFEST, "artifact": artifact.describe(payload), **changes}).encode()


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_file_runs_nothing_and_the_present_model_goes_on(
    serving: Serving, case: str
) -> None:
    sentence = serving.meets(CASES[case], manifest_of(CASES[case]))
    assert not CANARY.exists()
    assert sentence.startswith("model version 1.1.0: its artifact")
    assert len(sentence) < 600
    assert sentence.isprintable()


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("code: os.system", "posix.system"),
        ("code: in an array of objects", "posix.system"),
        ("code: eval", "builtins.eval"),
        ("code: functools.partial", "functools.partial, posix.system"),
        ("code: numpy that writes", "numpy.memmap"),
        ("code: a dotted name", "joblib.numpy_pickle.os.system"),
        ("wrong: a type that no model needs", "_io.BytesIO"),
    ],
)
def test_the_sentence_names_what_the_file_would_have_loaded(
    serving: Serving, case: str, name: str
) -> None:
    assert f"would load {name}, which no model needs" in serving.meets(
        CASES[case], manifest_of(CASES[case])
    )


def test_the_canary_would_have_sung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # If unpickling ran nothing here, the tests above would prove nothing.
    import joblib

    # Artifacts use fixed names that plain unpickling would look up.
    for name, module in (("calibrate", calibrators), ("venn_abers", venn_abers)):
        monkeypatch.setitem(sys.modules, f"models.{name}", module)
    (tmp_path / "bad.joblib").write_bytes(
        malicious.code(tmp_path / "canary")["in an array of objects"]
    )
    joblib.load(tmp_path / "bad.joblib")
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"1",
        b'"1.1.0"',
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"version": "1.1.0"}',
        b" " * 2**23,
    ],
)
def test_a_manifest_that_is_none_is_refused(serving: Serving, manifest: bytes) -> None:
    assert "manifest" in serving.meets(artifact.dump(trained().artifact), manifest)


@pytest.mark.parametrize(
    "value", [None, 0, -1, "x", [], {}, [[]], 1e308, {"sha256": 3}, [{"state": 1}], False]
)
@pytest.mark.parametrize("key", ["manifest_version", "artifact", "libraries", "features", "golden"])
def test_a_manifest_of_wrong_types_is_refused_not_a_crash(
    serving: Serving, key: str, value: Any
) -> None:
    payload = artifact.dump(trained().artifact)
    assert serving.meets(payload, manifest_of(payload, **{key: value}))


@pytest.mark.parametrize(
    "row",
    [
        {"as_of": 10**400},
        {"as_of": "now"},
        {"as_of": None},
        {"state": None},
        {"state": []},
        {"state": {"created_at": {}, "numbers": 1, "lead_score": "x"}},
        {"raw": None},
        {"probability": "0.5"},
        {"low": [0]},
    ],
)
def test_a_golden_row_of_wrong_types_is_refused_not_a_crash(
    serving: Serving, row: dict[str, Any]
) -> None:
    payload = artifact.dump(trained().artifact)
    golden = [{**MANIFEST["golden"][0], **row}]
    assert serving.meets(payload, manifest_of(payload, golden=golden))


@pytest.mark.parametrize("golden", [[], [MANIFEST["golden"][0]] * 1001])
def test_a_manifest_that_proves_nothing_or_without_end_is_refused(
    serving: Serving, golden: list[Any]
) -> None:
    payload = artifact.dump(trained().artifact)
    assert "golden rows" in serving.meets(payload, manifest_of(payload, golden=golden))


@pytest.mark.parametrize(
    ("library", "version"), [("python", "3.8.1"), ("python", "2.7"), ("scikit-learn", "0.24.2")]
)
def test_a_model_of_another_python_or_scikit_learn_is_refused(
    serving: Serving, library: str, version: str
) -> None:
    payload = artifact.dump(trained().artifact)
    libraries = {**MANIFEST["libraries"], library: version}
    sentence = serving.meets(payload, manifest_of(payload, libraries=libraries))
    assert f"it was trained with {library} {version}" in sentence


def test_an_artifact_under_the_manifest_of_another_is_refused(serving: Serving) -> None:
    other = artifact.dump(trained(2).artifact)
    assert "the manifest says" in serving.meets(
        other, manifest_of(artifact.dump(trained().artifact))
    )
    # Even where the digest is that of the other file, its scores are not those that were promised.
    assert "golden row" in serving.meets(other, manifest_of(other))


@pytest.mark.parametrize(
    "alias",
    [
        b"[" * 200_000,
        b'{"version": "1.1.0", "previous": [], "moved_at": 1e999}',
        b'{"version": []}',
        b"1",
    ],
)
def test_an_alias_that_is_none_keeps_the_present_model(serving: Serving, alias: bytes) -> None:
    serving.store.replace("aliases/champion.json", alias)
    serving.now += 5
    assert serving.slot.refresh() is False
    assert serving.slot.get() is serving.model
    assert serving.slot.refused


FLAT = zlib.decompress(artifact.dump(trained().artifact))


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(0, len(FLAT) - 1), st.integers(0, 255)), min_size=1, max_size=8),
    st.booleans(),
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_whatever_bytes_change_a_file_is_refused_or_a_model(
    edits: list[tuple[int, int]], near: bool
) -> None:
    changed = bytearray(FLAT)
    for place, byte in edits:
        # Most of the file is numbers: half of the examples change its first opcodes.
        changed[place % 3000 if near else place] = byte
    payload = bytes(changed)
    manifest = {**MANIFEST, "artifact": artifact.describe(payload)}
    with contextlib.suppress(Refused):
        assert isinstance(artifact.load(payload, manifest), Model)
    assert not CANARY.exists()
