"""Downloads from Maven Central into the user's cache, once for all processes."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from leadstream.errors import UserError
from leadstream.local.jars import fetch_jars_of
from leadstream.local.process import Child, Say, run_to_end, scratch, start_error

DEPENDENCY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"


@dataclass(frozen=True, slots=True)
class Download:
    """A program, and how Maven downloads it.

    Maven runs with `arguments`, and a `pom` if there is one. It must create a file that matches
    `proof`. `unpack` prepares the downloaded folder for the cache. Without Maven, Python downloads
    the files of the list `pinned`, if there is one.
    """

    name: str
    version: str
    size: str
    arguments: tuple[str, ...]
    proof: str
    pom: str | None = None
    unpack: Callable[[Path], None] = lambda _folder: None
    pinned: str | None = None


def fetch(download: Download, say: Say, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the cached folder of a program, and download it first if it is missing.

    Raises UserError if the download fails, or needs Maven and there is none.
    """
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leadstream"
    name = f"{download.name.split()[-1].lower()}-{download.version}"
    folder = cache / name
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None and download.pinned is None:
        raise UserError(
            f"Maven (mvn) is needed once to fetch {download.name} {download.version}, and none was "
            "found: install it."
        )
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{download.name}: waiting for another process with the same download")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _download(download, maven, folder, say, environ)
    return folder


def _download(
    download: Download, maven: str | None, folder: Path, say: Say, environ: Mapping[str, str]
) -> None:
    title = f"{download.name} {download.version}"
    way = "with Maven" if maven else "from Maven Central"
    say(f"{title}: fetching it {way}, once ({download.size}, into {folder})")
    began = time.monotonic()
    with scratch("fetch", parent=folder.parent) as staging:
        output = staging / "output"
        if maven:
            _run_maven(download, maven, staging, output)
        elif download.pinned:
            fetch_jars_of(download.pinned, output, environ)
        download.unpack(output)
        output.rename(folder)
    say(f"{title}: fetched in {time.monotonic() - began:.0f} s")


def _run_maven(download: Download, maven: str, staging: Path, output: Path) -> None:
    title = f"{download.name} {download.version}"
    if download.pom is not None:
        (staging / "pom.xml").write_text(download.pom, "utf-8")
    # A separate Maven repository, which is removed with this folder.
    arguments = [maven, "-B", "-ntp", "-C", f"-Dmaven.repo.local={staging}/repository"]
    options = {"MAVEN_OPTS": f"-XX:-UsePerfData -XX:TieredStopAtLevel=1 -Djava.io.tmpdir={staging}"}
    fetching = Child(
        [*arguments, *download.arguments, f"-DoutputDirectory={output}"],
        staging,
        staging / "mvn.log",
        environ={**os.environ, **options},
    )
    run_to_end(f"Fetching {title} with Maven", fetching, seconds=600)
    if not any(output.glob(download.proof)):
        raise start_error(f"Fetching {title} with Maven did not bring it", staging / "mvn.log")
