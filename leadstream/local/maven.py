"""What Maven fetches from Maven Central once, into the user's cache, however many processes ask."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from leadstream.errors import UserError
from leadstream.local.process import Child, Say, complete, failed, scratch

DEPENDENCY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"


@dataclass(frozen=True, slots=True)
class Download:
    """A program and how Maven brings it: `arguments`, beside a `pom`, into a folder where a file `proof` must be then.

    `unpack` makes of that folder what is kept.
    """

    name: str
    version: str
    size: str
    arguments: tuple[str, ...]
    proof: str
    pom: str | None = None
    unpack: Callable[[Path], None] = lambda _folder: None


def fetched(download: Download, say: Say, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder in the user's cache that holds it. Raises UserError when Maven is missing or the fetch fails."""
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leadstream"
    name = f"{download.name.split()[-1].lower()}-{download.version}"
    folder = cache / name
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise UserError(
            f"Maven (mvn) is needed once to fetch {download.name} {download.version}, and none was found: install it."
        )
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{download.name}: waiting for another process that fetches the same")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _fetch(download, maven, folder, say)
    return folder


def _fetch(download: Download, maven: str, folder: Path, say: Say) -> None:
    title = f"{download.name} {download.version}"
    say(f"{title}: fetching it with Maven, once ({download.size}, into {folder})")
    began = time.monotonic()
    with scratch("fetch", parent=folder.parent) as staging:
        if download.pom is not None:
            (staging / "pom.xml").write_text(download.pom, "utf-8")
        output = staging / "output"
        # A repository of its own: whatever Maven brings along goes away with this folder.
        arguments = [maven, "-B", "-ntp", "-C", f"-Dmaven.repo.local={staging}/repository"]
        options = {
            "MAVEN_OPTS": f"-XX:-UsePerfData -XX:TieredStopAtLevel=1 -Djava.io.tmpdir={staging}"
        }
        fetching = Child(
            [*arguments, *download.arguments, f"-DoutputDirectory={output}"],
            staging,
            staging / "mvn.log",
            environ={**os.environ, **options},
        )
        complete(f"Fetching {title} with Maven", fetching, seconds=600)
        if not any(output.glob(download.proof)):
            raise failed(f"Fetching {title} with Maven did not bring it", staging / "mvn.log")
        download.unpack(output)
        output.rename(folder)
    say(f"{title}: fetched in {time.monotonic() - began:.0f} s")
