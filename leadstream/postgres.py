"""Connections to Postgres whose waits are bounded, and whose URL is checked as a setting.

A pooler in transaction mode, such as PgBouncer, works too: each transaction may run in another
session of the server, so each one sets its own time-out, and nothing is prepared.
"""

import logging
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from leadstream.deadline import Deadline
from leadstream.error_table import About, about_sqlstate
from leadstream.errors import SettingsError, error_text

CONNECT_SECONDS = 3
# The client would print errors that it ignores, with the values of a row.
logging.getLogger("psycopg").addHandler(logging.NullHandler())
logging.getLogger("psycopg").propagate = False
# Added to statement_timeout, within which a healthy server answers.
MARGIN_SECONDS = 2.0


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that raises OperationalError if the server does not answer in time.

    A frozen server, or one behind a network that drops packets, never reaches its own
    statement_timeout. The time-outs of TCP do not help while something acknowledges the packets.
    """

    wait_seconds: float = CONNECT_SECONDS
    # Settings that a pooler does not keep between two transactions.
    local_settings: dict[str, str] | None = None

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """Run the block in a transaction, or in a savepoint of the one that is open."""
        outermost = self.info.transaction_status == TransactionStatus.IDLE
        with super().transaction(savepoint_name, force_rollback) as transaction:
            if outermost and self.local_settings:
                names, values = list(self.local_settings), list(self.local_settings.values())
                super().execute(_SET_LOCAL, (names, values))
            yield transaction

    def execute(self, *arguments: Any, **options: Any) -> psycopg.Cursor[tuple[Any, ...]]:
        """Execute a statement; behind a pooler, in a transaction with the settings."""
        if not self.local_settings or self.info.transaction_status != TransactionStatus.IDLE:
            return super().execute(*arguments, **options)
        with self.transaction():
            return super().execute(*arguments, **options)

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """Wait as psycopg does, for at most `wait_seconds`; every statement goes through this."""
        return super().wait(_bounded(gen, self.wait_seconds), *arguments, **options)


def connect(url: str, *, statement_ms: int, options: str = "", **more: Any) -> Connection:
    """Connect within 3 seconds, in autocommit mode; the URL's own `options` are kept.

    A statement may take `statement_ms` milliseconds. Raises SettingsError if the URL cannot be
    parsed, and psycopg.Error if the server refuses or does not answer.
    """
    own = _parsed(url).get("options") or ""
    wanted = f"{own} {options} -c statement_timeout={statement_ms}".strip()
    try:
        connection = _open(url, options=wanted, **more)
    except psycopg.OperationalError as error:
        if not _OPTIONS_REFUSED.search(error_text(error)):
            raise
        connection = _open(url, options="", **more)
        _behind_pooler(connection, wanted)
    else:
        # A pooler draws process ids of its own. It may have ignored the options.
        [pid] = connection.execute("select pg_backend_pid()").fetchone() or [0]
        if pid != connection.info.backend_pid:
            _behind_pooler(connection, wanted)
    connection.wait_seconds = statement_ms / 1000 + MARGIN_SECONDS
    return connection


def about_postgres(error: Exception) -> About:
    """Return what an error of the client or of the server is about."""
    if isinstance(error, UnicodeError | psycopg.DataError):
        return About.RECORD
    if isinstance(error, psycopg.Error) and error.sqlstate:
        return about_sqlstate(error.sqlstate)
    if isinstance(error, psycopg.ProgrammingError | psycopg.NotSupportedError):
        return About.SETUP
    return About.SERVER


def describe_postgres(error: psycopg.Error) -> str:
    """Return the server's sentence, without the statement or the URL, which may hold secrets.

    The sentence may repeat a value: do not log that of an error about a record.
    """
    # libpq adds hints in lines that begin with a tab.
    lines = [line for line in error_text(error).split("\n") if not line.startswith("\t")]
    # Of several addresses each has a line with its cause, below a sentence about the last one.
    failures = [line.removeprefix("- ") for line in lines if line.startswith("- host: ")]
    text = (error.diag.message_primary or "; ".join(failures) or lines[-1]).strip()
    return text or type(error).__name__


def name_postgres(error: Exception) -> str:
    """Return the name of an error and its SQLSTATE, which hold no value of a row."""
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    name = type(error).__name__
    return f"{name} ({state})" if state else name


def check_url(url: str) -> str:
    """Return the URL unchanged. Raises SettingsError if it cannot be parsed."""
    _parsed(url)
    return url


def _parsed(url: str) -> dict[str, Any]:
    try:
        return conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # Without the cause, which repeats the address with the password.
        raise SettingsError(
            "DATABASE_URL cannot be read: write postgresql://user:password@host:port/database"
        ) from None


# PgBouncer's words, and those of the proxy of RDS.
_OPTIONS_REFUSED = re.compile("startup parameter|command-line options", re.IGNORECASE)
_SET_LOCAL = (
    "select set_config(name, value, true) from unnest(%s::text[], %s::text[]) as t(name, value)"
)
# -c name=value, -cname=value or --name=value, where a backslash quotes a space.
_OPTION = re.compile(r"(?:-c\s*|--)([\w.-]+)=((?:\\.|[^\s\\])*)(?:\s+|$)")


def _open(url: str, **more: Any) -> Connection:
    # With the encoding of the database, the client itself could not send every id.
    parameters = make_conninfo(url, connect_timeout=CONNECT_SECONDS, client_encoding="utf8", **more)
    connection: Any = Connection.connect(parameters, autocommit=True)
    found: Connection = connection
    return found


def _behind_pooler(connection: Connection, options: str) -> None:
    """Set the options in each transaction, and prepare no statements."""
    settings, left = dict(_OPTION.findall(options)), _OPTION.sub("", options).strip()
    if left:
        connection.close()
        raise SettingsError(
            "DATABASE_URL: a connection pooler takes no options other than -c name=value; "
            "remove the others, or connect to Postgres without the pooler"
        )
    names = {"default_transaction_read_only": "transaction_read_only"}
    connection.prepare_threshold = None
    connection.local_settings = {
        names.get(name, name): re.sub(r"\\(.)", r"\1", value)
        for name, value in ((key.replace("-", "_"), value) for key, value in settings.items())
    }
    _check_transactions(connection)


def _check_transactions(connection: Connection) -> None:
    """Raise SettingsError if a pooler allows no transactions of several statements."""
    try:
        connection.execute("select 1")
    except psycopg.errors.ProtocolViolation as error:
        connection.close()
        raise SettingsError(
            f"DATABASE_URL: the connection pooler refuses a transaction "
            f"({describe_postgres(error)}); set its pool_mode to transaction or session, or "
            "connect to Postgres without it"
        ) from None


def _bounded(gen: Generator[Any, Any, Any], seconds: float) -> Generator[Any, Any, Any]:
    """Wait as psycopg asks, and raise OperationalError after `seconds` without an answer."""
    deadline = Deadline.after(seconds)
    try:
        wanted = next(gen)
        while True:
            # psycopg reports every tenth of a second that nothing arrived yet.
            ready = yield wanted
            if ready:
                deadline = Deadline.after(seconds)
            elif deadline.expired:
                raise psycopg.OperationalError(f"no answer within {seconds:g} s")
            wanted = gen.send(ready)
    except StopIteration as done:
        return done.value
