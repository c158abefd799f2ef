"""A store whose objects were deleted, restored in part, edited or swapped: every verb says what is
wrong in a sentence, and no verb of another version is stopped by it.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leadstream.cli.main import main
from leadstream.errors import UserError
from models.registry.versions import ModelRegistry
from tests.trained_models import TRUST, trained, write_key

VERSIONS = ("1.0.0", "1.1.0", "1.2.0")
OBJECTS = (
    "store.json",
    "aliases/champion.json",
    "aliases/challenger.json",
    "versions/1.1.0/manifest.json",
    "versions/1.1.0/manifest.sig",
    "versions/1.1.0/model.joblib",
)
VERBS = (
    *("list", "show", "show 1.0.0", "show challenger", "verify", "log"),
    *("verify 1.1.0", "promote 1.2.0 --force", "promote 1.0.0 --alias challenger"),
    *("rollback", "rollback --alias challenger", "retire"),
)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions, the champion 1.1.0 after 1.0.0, and a challenger."""
    folder = tmp_path_factory.mktemp("complete") / "models"
    registry = ModelRegistry(str(folder), TRUST)
    for _ in VERSIONS:
        registry.publish(trained())
    for version in VERSIONS[:2]:
        registry.promote(version, force=True)
    registry.promote("1.2.0", "challenger")
    return folder


@pytest.fixture
def store(complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    shutil.copytree(complete, folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL_STORE", str(folder))
    monkeypatch.setenv("LEADSTREAM_MODEL_SIGNING_KEY", str(write_key(tmp_path / "key")))
    monkeypatch.setenv("COLUMNS", "80")
    return folder


Mutation = Callable[[Path, random.Random], None]


def _edit(path: Path, random_of: random.Random) -> None:
    """Change one value of a JSON object at any depth."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        path.write_bytes(path.read_bytes()[::-1])
        return
    part = content
    while True:
        key = random_of.choice(list(part) if isinstance(part, dict) else range(len(part)))
        inner = part[key]
        if isinstance(inner, dict | list) and inner and random_of.random() < 0.7:
            part = inner
            continue
        if isinstance(part, dict) and random_of.random() < 0.3:
            del part[key]
        else:
            part[key] = random_of.choice(
                [None, "", "x", -1, 1e300, [], {}, True, "9.9.9", "\x1b[2J"]
            )
        path.write_text(json.dumps(content))
        return


def _truncate(path: Path, random_of: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: random_of.randrange(path.stat().st_size)])


def _garbage(path: Path, random_of: random.Random) -> None:
    path.write_bytes(
        random_of.choice(
            [b"", b"[]", b"null", b"7", b"{}", b"[" * 100_000, b"\xff\xfe", b"9" * 5000]
        )
    )


def _folder(path: Path, random_of: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path, random_of: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _swap(path: Path, random_of: random.Random) -> None:
    other = str(path).replace("1.1.0", random_of.choice(["1.0.0", "1.2.0"]))
    if other == str(path):
        other = str(path.parent / random_of.choice(["champion.json", "challenger.json"]))
    if Path(other).is_file():
        shutil.copyfile(other, f"{path}.tmp")
        Path(f"{path}.tmp").replace(path)


MUTATIONS: dict[str, Mutation] = {
    "delete": lambda path, _: path.unlink(),
    "truncate": _truncate,
    "edit": _edit,
    "garbage": _garbage,
    "folder": _folder,
    "pipe": _pipe,
    "swap": _swap,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTS)
def test_every_verb_says_what_is_wrong_in_one_line_and_never_breaks(
    store: Path, complete: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    random_of = random.Random(name)
    for mutation in [*MUTATIONS, "edit", "edit", "garbage"]:
        shutil.rmtree(store)
        shutil.copytree(complete, store)
        MUTATIONS[mutation](store / name, random_of)
        for words in random_of.sample(VERBS, 3):
            code = main(["models", *words.split()])
            err = capfd.readouterr().err
            assert code in (0, 1, 2), (words, err)
            assert "Traceback" not in err, (words, err)
            assert "\x1b" not in err
            if code:
                assert len(err.splitlines()) == 1, (words, err)
            else:
                assert all(line.startswith("Problem: ") for line in err.splitlines()), (words, err)


def _damaged(store: Path) -> Iterator[tuple[str, str]]:
    (store / "versions/1.0.0/model.joblib").unlink()
    yield "versions/1.0.0 has no model.joblib", "1.0.0"
    (store / "versions/1.1.0/manifest.json").unlink()
    yield "versions/1.1.0 has no manifest.json", "1.1.0"
    (store / "versions/1.2.0/manifest.sig").write_text("{}")
    yield "model version 1.2.0: its signature cannot be read", "1.2.0"
    (store / "aliases/challenger.json").write_text("no JSON")
    yield "the alias challenger in", "challenger"


def test_the_list_names_each_damaged_object_in_a_line_and_goes_on(
    store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sentences = [sentence for sentence, _ in _damaged(store)]
    assert main(["models", "list"]) == 0
    out, err = capfd.readouterr()
    for sentence in sentences:
        assert [line for line in err.splitlines() if sentence in line], sentence
    assert "the alias champion points to 1.1.0, which is not in" in err
    assert len(err.splitlines()) == len(sentences) + 1
    assert "1.2.0" in out
    assert main(["models", "list", "--json"]) == 0
    assert [row["version"] for row in json.loads(capfd.readouterr().out)] == ["1.2.0", "1.0.0"]


@pytest.mark.parametrize("verb", ["list", "show 1.1.0", "show 1.1.0 --json", "report 1.1.0"])
def test_an_artifact_that_was_cut_off_is_named_by_verbs_that_do_not_read_it(
    store: Path, capfd: pytest.CaptureFixture[str], verb: str
) -> None:
    cut = store / "versions/1.1.0/model.joblib"
    size = cut.stat().st_size
    os.truncate(cut, 100)
    assert main(["models", *verb.split()]) == 0
    assert capfd.readouterr().err == (
        f"Problem: model version 1.1.0: its artifact has size 100, the manifest says {size}.\n"
    )


def test_a_folder_in_place_of_an_alias_is_named_by_promote(
    store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    alias = store / "aliases/champion.json"
    alias.unlink()
    alias.mkdir()
    assert main(["models", "promote", "1.2.0", "--force"]) == 1
    assert "aliases/champion.json in" in (err := capfd.readouterr().err)
    assert "is no regular file: remove it" in err


def test_a_complete_store_has_no_problem(store: Path) -> None:
    assert ModelRegistry(str(store), TRUST).problems() == []


def test_next_to_an_alias_that_points_nowhere_a_version_is_promoted_and_trained(
    store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(store / "versions/1.1.0")
    monkeypatch.setattr("models.train.training.train", lambda *_: trained())
    (tmp_path / "leads.csv").write_text("id,at,won\na,2025-01-01,1\n")
    (tmp_path / "map.toml").write_text(
        '[lead]\nlead_id = "id"\ncreated_at = "at"\n'
        '[outcome]\ncolumn = "won"\ntrue = ["1"]\nfalse = ["0"]\n'
    )
    words = ["train", "--csv", "leads.csv", "--mapping", "map.toml", "--json"]
    assert main(words) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["champion"] == "1.1.0"
    assert "Problem: the alias champion points to 1.1.0, which is not in" in err
    assert main(["models", "show"]) == 1
    assert "the alias champion points to 1.1.0, which is not in" in capfd.readouterr().err
    (store / "aliases/champion.json").write_text("{")
    assert main(words) == 0
    assert "the alias champion in" in capfd.readouterr().err
    assert main(["models", "promote", "1.2.0", "--force"]) == 0
    assert ModelRegistry(str(store), TRUST).resolve() == "1.2.0"


def test_a_store_that_lost_its_name_gets_no_new_one_that_would_keep_its_versions_out(
    store: Path,
) -> None:
    (store / "store.json").unlink()
    with pytest.raises(
        UserError, match=r"store\.json is missing in .* names the store \w+: restore"
    ):
        ModelRegistry(str(store), TRUST).publish(trained())
    assert not (store / "store.json").exists()


def test_a_rollback_refuses_a_version_that_does_not_verify_as_a_promotion_does(
    store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = store / "versions/1.0.0/model.joblib"
    path.write_bytes(path.read_bytes()[:-1])
    errors = []
    for words in (["rollback"], ["promote", "1.0.0"]):
        assert main(["models", *words]) == 1
        errors.append(capfd.readouterr().err)
    assert errors[0] == errors[1]
    assert ModelRegistry(str(store), TRUST).resolve() == "1.1.0"
