"""Connections to Postgres whose waits are bounded, and whose URL is checked as a setting."""

from collections.abc import Generator
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from leadstream.deadline import Deadline
from leadstream.errors import SettingsError

CONNECT_SECONDS = 3
# Added to statement_timeout, within which a healthy server answers.
MARGIN_SECONDS = 2.0


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that raises OperationalError if the server does not answer in time.

    A frozen server, or one behind a network that drops packets, never reaches its own
    statement_timeout. The time-outs of TCP do not help while something acknowledges the packets.
    """

    wait_seconds: float = CONNECT_SECONDS

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """Wait as psycopg does, for at most `wait_seconds`; every statement goes through this."""
        return super().wait(_bounded(gen, self.wait_seconds), *arguments, **options)


def connect(url: str, *, statement_ms: int, options: str = "", **more: Any) -> Connection:
    """Connect within 3 seconds, in autocommit mode; the URL's own `options` are kept.

    A statement may take `statement_ms` milliseconds. Raises SettingsError if the URL cannot be
    parsed, and psycopg.Error if the server refuses or does not answer.
    """
    own = _parsed(url).get("options") or ""
    connection: Any = Connection.connect(
        make_conninfo(
            url,
            connect_timeout=CONNECT_SECONDS,
            options=f"{own} {options} -c statement_timeout={statement_ms}".strip(),
            **more,
        ),
        autocommit=True,
    )
    connection.wait_seconds = statement_ms / 1000 + MARGIN_SECONDS
    found: Connection = connection
    return found


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
