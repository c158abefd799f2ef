"""The fetch of Kafka's jars into the user's cache, with stand-ins for Maven and Java."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from leadstream.errors import UserError
from leadstream.local.kafka import VERSION, fetch_jars, find_java

GOOD_MAVEN = """
for argument in "$@"; do case "$argument" in -DoutputDirectory=*) jars="${argument#*=}";; esac; done
test -f pom.xml || exit 9
mkdir "$jars" && touch "$jars/kafka_2.13-0.jar"
echo run >>"$RUNS"
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put shell scripts with these bodies on the path, in place of the real programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "mkdir", "touch", "sleep", "rm"):
        os.symlink(f"/bin/{name}", folder / name)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("JAVA_HOME", raising=False)

    def make(**bodies: str) -> None:
        for name, body in bodies.items():
            (folder / name).write_text(f"#!/bin/sh\n{body}\n")
            (folder / name).chmod(0o755)

    return make


def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def test_two_that_fetch_at_once_run_maven_once_and_leave_only_the_jars(
    programs: Callable[..., None], tmp_path: Path
) -> None:
    programs(mvn=GOOD_MAVEN)
    with ThreadPoolExecutor(4) as pool:
        fetched = list(pool.map(lambda _: fetch_jars(list, environ(tmp_path)), range(4)))
    assert set(fetched) == {tmp_path / "cache" / "leadstream" / f"kafka-{VERSION}"}
    assert [path.name for path in fetched[0].iterdir()] == ["kafka_2.13-0.jar"]
    assert (tmp_path / "runs").read_text() == "run\n"
    assert sorted(path.name for path in fetched[0].parent.iterdir()) == [
        f"kafka-{VERSION}",
        f"kafka-{VERSION}.lock",
    ]


def test_jars_in_the_cache_need_no_maven(programs: Callable[..., None], tmp_path: Path) -> None:
    programs()
    cached = tmp_path / "cache" / "leadstream" / f"kafka-{VERSION}"
    cached.mkdir(parents=True)
    assert fetch_jars(list, environ(tmp_path)) == cached


@pytest.mark.parametrize(
    ("maven", "sentence"),
    [
        (
            "echo '[ERROR] the network is down'; exit 1",
            "exit code 1; its log ends with:\n.*the network is down",
        ),
        ("exit 0", "did not bring it"),
    ],
)
def test_a_failed_fetch_shows_mavens_last_lines_and_leaves_no_half_cache(
    programs: Callable[..., None], tmp_path: Path, maven: str, sentence: str
) -> None:
    programs(mvn=maven)
    with pytest.raises(UserError, match=sentence):
        fetch_jars(list, environ(tmp_path))
    assert [path.name for path in (tmp_path / "cache" / "leadstream").iterdir()] == [
        f"kafka-{VERSION}.lock"
    ]


def test_without_maven_the_error_says_what_to_install(
    programs: Callable[..., None], tmp_path: Path
) -> None:
    programs()
    with pytest.raises(UserError, match=r"Maven \(mvn\) is needed once"):
        fetch_jars(list, environ(tmp_path))


@pytest.mark.parametrize(
    ("body", "displayed"),
    [("echo 'openjdk version \"11.0.2\"' >&2", "is 11"), ("echo nothing", "is an unknown version")],
)
def test_an_older_java_is_refused_with_its_version(
    programs: Callable[..., None], body: str, displayed: str
) -> None:
    programs(java=body)
    with pytest.raises(UserError, match=f"needs Java 17 or later, but .*{displayed}"):
        find_java({})


def test_without_java_the_error_says_what_to_install(programs: Callable[..., None]) -> None:
    programs()
    with pytest.raises(UserError, match="needs Java 17 or later, and none was found"):
        find_java({})


def test_java_home_is_taken_before_the_path(programs: Callable[..., None], tmp_path: Path) -> None:
    programs(java="exit 1")
    home = tmp_path / "home" / "bin"
    home.mkdir(parents=True)
    (home / "java").write_text("#!/bin/sh\necho 'openjdk version \"21\"' >&2\n")
    (home / "java").chmod(0o755)
    assert find_java({"JAVA_HOME": str(home.parent)}) == str(home / "java")
