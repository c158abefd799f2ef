"""Connections to Postgres: an address that cannot be read is a wrong setting, and no answer is waited for for ever."""

import time
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from leadstream.errors import SettingsError

CONNECT_SECONDS = 3
# Beyond its statement_timeout, after which a server that is well has answered.
PATIENCE_SECONDS = 2.0


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which each wait for the server ends, whatever became of the server, in an OperationalError.

    A server that is frozen, or behind a network that swallows packets, never gets to its own statement_timeout; and
    as long as something acknowledges the packets, the time-outs of TCP do not help either.
    """

    wait_seconds: float = CONNECT_SECONDS

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """As psycopg's, which every statement goes through."""
        return super().wait(_bounded(gen, self.wait_seconds), *arguments, **options)


def connect(url: str, *, statement_ms: int, options: str = "", **more: Any) -> Connection:
    """Connect within 3 seconds, in autocommit. Each statement may take so long; the URL's own `options` stay.

    Raises SettingsError where the URL cannot be read, psycopg.Error where the server refuses or does not answer.
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
    connection.wait_seconds = statement_ms / 1000 + PATIENCE_SECONDS
    found: Connection = connection
    return found


def check_url(url: str) -> str:
    """The URL as it is. Raises SettingsError where it cannot be read."""
    _parsed(url)
    return url


def _parsed(url: str) -> dict[str, Any]:
    try:
        return conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # Without its cause, which repeats the address with the password in it.
        raise SettingsError(
            "DATABASE_URL cannot be read: write postgresql://user:password@host:port/database"
        ) from None


def _bounded(gen: Generator[Any, Any, Any], seconds: float) -> Generator[Any, Any, Any]:
    """What psycopg waits for, given up when nothing has come for so long."""
    deadline = time.monotonic() + seconds
    wanted = next(gen)
    while True:
        # Every tenth of a second psycopg says that nothing has come yet.
        ready = yield wanted
        if ready:
            deadline = time.monotonic() + seconds
        elif time.monotonic() > deadline:
            raise psycopg.OperationalError(f"no answer within {seconds:g} s")
        wanted = gen.send(ready)
