"""The fetch of Kafka's jars into the user's cache, with stand-ins for Maven and Java."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from leadstream.errors import UserError
from leadstream.local import jars, kafka
from leadstream.local.kafka import VERSION, fetch_jars, find_java
from leadstream.local.maven import Download, fetch
from leadstream.local.process import free_ports

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


def test_a_program_without_pinned_files_needs_maven_and_says_so(
    programs: Callable[..., None], tmp_path: Path
) -> None:
    programs()
    with pytest.raises(UserError, match=r"Maven \(mvn\) is needed once"):
        fetch(Download("Some", "1", "1 MB", (), "*.jar"), list, environ(tmp_path))


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A mirror with two jars, which are the pinned ones, and the environment that names it."""
    folder = tmp_path / "mirror"
    for name in ("kafka_2.13-0.jar", "other-1.jar"):
        (folder / "org" / name).mkdir(parents=True)
        (folder / "org" / name / name).write_text(name)
    pins = {f"org/{path.name}/{path.name}": sha256(path) for path in folder.rglob("*.jar/*.jar")}
    monkeypatch.setattr(jars, "pinned", lambda _name: pins)
    handler = partial(QuietFiles, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield {**environ(tmp_path), "MVNW_REPOURL": f"http://127.0.0.1:{server.server_port}/"}
        server.shutdown()


class QuietFiles(SimpleHTTPRequestHandler):
    """The files of a folder, without a line for each."""

    def log_message(self, *_: object) -> None:
        pass


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_without_maven_python_fetches_the_pinned_jars(
    programs: Callable[..., None], mirror: dict[str, str]
) -> None:
    programs()
    folder = fetch_jars(list, mirror)
    assert sorted(path.name for path in folder.iterdir()) == ["kafka_2.13-0.jar", "other-1.jar"]
    assert (folder / "other-1.jar").read_text() == "other-1.jar"


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("changed", r"other-1\.jar is not the file with the pinned SHA-256"),
        ("missing", r"other-1\.jar could not be fetched .*404.*MVNW_REPOURL"),
        ("down", r"could not be fetched .*refused.*install Maven"),
    ],
)
def test_a_jar_that_is_changed_or_missing_leaves_no_half_cache(
    programs: Callable[..., None], mirror: dict[str, str], tmp_path: Path, fault: str, sentence: str
) -> None:
    programs()
    jar = tmp_path / "mirror" / "org" / "other-1.jar" / "other-1.jar"
    if fault == "changed":
        jar.write_text("a virus")
    elif fault == "missing":
        jar.unlink()
    else:
        mirror["MVNW_REPOURL"] = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(UserError, match=sentence):
        fetch_jars(list, mirror)
    assert [path.name for path in (tmp_path / "cache" / "leadstream").iterdir()] == [
        f"kafka-{VERSION}.lock"
    ]


@pytest.mark.parametrize(
    ("mirror_of", "expected"),
    [
        ("central", "https://nexus.example/maven"),
        ("*", "https://nexus.example/maven"),
        ("external:*,!internal", "https://nexus.example/maven"),
        ("*,!central", jars.CENTRAL),
        ("jboss", jars.CENTRAL),
    ],
)
def test_a_mirror_of_maven_s_settings_is_asked_as_maven_would(
    tmp_path: Path, mirror_of: str, expected: str
) -> None:
    (tmp_path / ".m2").mkdir()
    (tmp_path / ".m2" / "settings.xml").write_text(
        '<settings xmlns="http://maven.apache.org/SETTINGS/1.0.0"><mirrors><mirror><id>ours</id>'
        f"<url>https://nexus.example/maven/</url><mirrorOf>{mirror_of}</mirrorOf></mirror>"
        "</mirrors></settings>"
    )
    assert jars.repository_url({"HOME": str(tmp_path)}) == expected
    own = {"HOME": str(tmp_path), "MVNW_REPOURL": "https://other.example"}
    assert jars.repository_url(own) == "https://other.example"


@pytest.mark.parametrize(
    "text",
    [
        "<settings",
        "<settings><mirrors><mirror><url>file:///x</url>"
        "<mirrorOf>*</mirrorOf></mirror></mirrors></settings>",
    ],
)
def test_settings_that_cannot_be_used_are_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / ".m2").mkdir()
    (tmp_path / ".m2" / "settings.xml").write_text(text)
    with pytest.raises(UserError, match=r"settings\.xml"):
        jars.repository_url({"HOME": str(tmp_path)})


def test_the_pinned_jars_are_those_that_maven_resolves() -> None:
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leadstream"
    folder = cached / f"kafka-{VERSION}"
    if not folder.is_dir():
        pytest.skip("no Kafka was fetched yet")
    pins = {path.rpartition("/")[2]: digest for path, digest in jars.pinned("kafka.sha256").items()}
    assert pins == {path.name: sha256(path) for path in folder.iterdir()}


def test_without_a_java_of_the_system_that_of_the_package_is_taken(
    programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "packaged_java", lambda: "/wheel/java")
    programs()
    assert find_java({}) == "/wheel/java"
    programs(java="echo 'openjdk version \"11.0.2\"' >&2")
    assert find_java({}) == "/wheel/java"
    programs(java="echo 'openjdk version \"17.0.2\"' >&2")
    assert find_java({}).endswith("/bin/java")


@pytest.mark.parametrize(
    ("body", "displayed"),
    [("echo 'openjdk version \"11.0.2\"' >&2", "is 11"), ("echo nothing", "is an unknown version")],
)
def test_an_older_java_is_refused_with_its_version(
    programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch, body: str, displayed: str
) -> None:
    monkeypatch.setattr(kafka, "packaged_java", lambda: None)
    programs(java=body)
    with pytest.raises(UserError, match=f"needs Java 17 or later, but .*{displayed}"):
        find_java({})


def test_without_java_the_error_says_what_to_install(
    programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "packaged_java", lambda: None)
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
