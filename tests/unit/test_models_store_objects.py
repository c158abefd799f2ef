"""Objects in the model store that are none: each is one sentence, and the present model goes on."""

import argparse
import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from leadstream.background import inline
from leadstream.cli import models as models_command
from leadstream.errors import UserError
from models.registry.signing import Trust
from models.registry.slot import ModelSlot
from models.registry.store import Store
from models.registry.versions import ModelRegistry
from models.serve import artifact
from models.serve.refused import Refused

pytestmark = pytest.mark.slow
UNSIGNED = Trust(unsigned=True)
ODD: dict[str, bytes] = {
    "empty": b"",
    "junk": b"junk",
    "half": b'{"version": "1.0',
    "bytes": b"\xff\xfe\x00",
    "null": b"null",
    "list": b"[]",
    "text": b'"1.0.0"',
    "nested": b"[" * 100_000,
    "nested object": b'{"a":' * 100_000,
    "digits": b'{"version": ' + b"9" * 1_000_000 + b"}",
    "endless number": b'{"version": "1.1.0", "previous": [], "moved_at": 1e999}',
    "long version": json.dumps(
        {"version": "1" * 1_000_000 + ".0.0", "previous": [], "moved_at": 1}
    ).encode(),
    "odd version": b'{"version": "../../etc", "previous": [], "moved_at": 1}',
    "previous": b'{"version": "1.0.0", "previous": 7, "moved_at": 1}',
}


@pytest.fixture
def folder(model_store: str, tmp_path: Path) -> Path:
    """A copy of a store with a champion, of which nothing must be signed."""
    copied = Path(shutil.copytree(model_store, tmp_path / "models"))
    (copied / "versions" / "1.0.0" / "manifest.sig").unlink()
    return copied


class MovingClock:
    """A clock that moves by an hour with each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 3600
        return self.now


def serving(folder: Path) -> ModelSlot:
    slot = ModelSlot(ModelRegistry(str(folder), UNSIGNED), clock=MovingClock(), run=inline)
    slot.get()
    return slot


def written(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


REPLACEMENTS: dict[str, Callable[[Path], Any]] = {
    **{name: partial(written, data) for name, data in ODD.items()},
    "pipe": pipe,
    "directory": directory,
    "device": device,
}


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_an_odd_alias_is_one_sentence_and_the_present_model_goes_on(
    folder: Path, name: str
) -> None:
    slot = serving(folder)
    present = slot.loaded
    REPLACEMENTS[name](folder / "aliases" / "champion.json")
    slot.refresh()
    assert slot.loaded is present
    assert slot.refused is not None
    assert len(slot.refused) <= 500


@pytest.mark.parametrize("name", REPLACEMENTS)
@pytest.mark.parametrize("file", ["manifest.json", "model.joblib", "manifest.sig"])
def test_an_odd_object_of_a_version_is_one_sentence_and_the_present_model_goes_on(
    folder: Path, file: str, name: str
) -> None:
    slot = serving(folder)
    present = slot.loaded
    shutil.copytree(folder / "versions" / "1.0.0", folder / "versions" / "1.1.0")
    manifest = folder / "versions" / "1.1.0" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"1.0.0"', '"1.1.0"', 1))
    manifest.with_name(file).touch()
    REPLACEMENTS[name](manifest.with_name(file))
    alias = {"version": "1.1.0", "previous": ["1.0.0"], "moved_at": 7}
    (folder / "aliases" / "champion.json").write_text(json.dumps(alias))
    slot.refresh()
    assert slot.loaded is present
    assert slot.refused is not None
    assert "\n" not in slot.refused


def test_an_object_that_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refused, match=r"pipe in .* is no regular file: remove it"):
        Store(str(tmp_path)).read("pipe")


VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**400,
    1e308,
    "",
    "[/red]",
    "<b>",
    [],
    {},
    [[]],
    {"a": 1},
)


def mutated(manifest: Any) -> Iterator[Any]:
    """The manifest with each of its parts replaced by odd values, in turn."""

    def paths(part: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        yield path
        if len(path) < 3 and isinstance(part, dict | list):
            for key in part if isinstance(part, dict) else range(min(len(part), 1)):
                yield from paths(part[key], (*path, key))

    for number, path in enumerate(list(paths(manifest, ()))[1:]):
        odd = copy.deepcopy(manifest)
        part = odd
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = VALUES[number % len(VALUES)]
        yield odd


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    models_command.add_parser(parser.add_subparsers())
    given = parser.parse_args(["models", *words])
    return int(given.func(given))


def test_a_manifest_with_an_odd_part_is_shown_or_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODEL_STORE", str(folder))
    monkeypatch.setenv("LEADSTREAM_MODEL_UNSIGNED", "allow")
    path = folder / "versions" / "1.0.0" / "manifest.json"
    payload = path.with_name("model.joblib").read_bytes()
    manifest = json.loads(path.read_bytes())
    refused = 0
    for odd in mutated(manifest):
        path.write_text(json.dumps(odd))
        for words in (("list",), ("show", "1.0.0"), ("log",)):
            try:
                assert call(*words) == 0
            except UserError:
                refused += 1
        try:
            artifact.load(payload, odd)
        except UserError:
            refused += 1
    assert refused > 10
    assert "Traceback" not in capsys.readouterr().err


def test_an_odd_entry_of_the_log_hides_no_other(folder: Path) -> None:
    registry = ModelRegistry(str(folder), UNSIGNED)
    [move] = registry.log()
    log = folder / "aliases" / "log"
    for name, data in ODD.items():
        (log / f"odd-{name}.json").write_bytes(data)
    (log / "odd-at.json").write_text(json.dumps(move | {"at": 10**30}))
    os.mkfifo(log / "odd-pipe.json")
    moves = registry.log()
    assert moves[-1] == move
    assert {each["action"] for each in moves[:-1]} == {"unreadable"}
    assert len(moves) == len(ODD) + 3
