"""Databases of a server of the tests, each of its own."""

import contextlib
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import psycopg


@contextlib.contextmanager
def database_of_its_own(server_url: str) -> Iterator[str]:
    """The URL of a new and empty database."""
    name = f"own_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
        try:
            yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
        finally:
            connection.execute(f"drop database {name} with (force)".encode())
