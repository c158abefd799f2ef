"""A CRM of another shape: names, types and schemas are its own, and a file describes it."""

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from schemas.crm_description import CrmDescription
from schemas.description_file import load_description

TABLES = """
create schema sales{s}; create schema ref{s}; create schema admissions{s}; create schema own{s};
create table ref{s}.sources (id integer primary key, label text);
insert into ref{s}.sources values (1, 'fair'), (2, 'web');
create table sales{s}.contacts (
    contact_uuid uuid primary key,
    full_name text,
    created_on timestamp not null,
    stage varchar(20),
    source_id bigint references ref{s}.sources,
    touches smallint,
    gpa numeric(3, 2),
    country_code char(2),
    has_consent boolean,
    deleted_at timestamp,
    updated_by text default 'crm',
    row_version bigint not null default 1
);
create table admissions{s}.applications (
    number bigserial primary key, contact_id uuid, state text, submitted_on date
);
"""
FILE = """
[database]
schema = "sales{s}"
table = "contacts"
id = "contact_uuid"
version = "row_version"
deleted = "deleted_at"
origin = {{ column = "updated_by", values = ["leadstream"] }}
time_zone = "Europe/Berlin"

[lead]
created_at = "created_on"
status = "stage"
touchpoint_count = "touches"

[lead.source]
column = "source_id"
lookup = {{ schema = "ref{s}", table = "sources", value = "label" }}

[lead.numbers]
gpa = {{ column = "gpa", range = [0, 4] }}

[lead.categories]
country = "country_code"
consent = "has_consent"

[outcome]
schema = "admissions{s}"
table = "applications"
lead = "contact_id"
decided_at = "submitted_on"
where = {{ column = "state", values = ["submitted"] }}
"""


@dataclass(frozen=True, slots=True)
class ContactsCrm:
    """A described CRM at work; the outbox and the scores go to a schema of their own."""

    url: str
    connection: psycopg.Connection[Any]
    suffix: str
    file: Path

    @property
    def contacts(self) -> str:
        return f"sales{self.suffix}.contacts"

    @property
    def applications(self) -> str:
        return f"admissions{self.suffix}.applications"

    @property
    def description(self) -> CrmDescription:
        return load_description(self.file)

    def do(self, statement: str, *values: Any) -> None:
        self.connection.execute(statement.encode(), values or None)

    def add(self, **columns: Any) -> str:
        """Add a contact, and return its id."""
        lead_id = str(uuid.uuid4())
        row = {
            "contact_uuid": lead_id,
            "created_on": "2026-01-31 12:00:00.5",
            "stage": "open",
            "source_id": 1,
            "touches": 3,
            "gpa": "3.50",
            "country_code": "DE",
            "has_consent": True,
            **columns,
        }
        marks = ", ".join(["%s"] * len(row))
        self.do(f"insert into {self.contacts} ({', '.join(row)}) values ({marks})", *row.values())
        return lead_id


@contextlib.contextmanager
def contacts_crm(server_url: str, folder: Path) -> Iterator[ContactsCrm]:
    suffix = f"_{uuid.uuid4().hex[:8]}"
    url = f"{server_url}{'&' if '?' in server_url else '?'}options=-csearch_path%3Down{suffix}"
    file = folder / "crm.toml"
    file.write_text(FILE.format(s=suffix))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLES.format(s=suffix).encode())
        yield ContactsCrm(url, connection, suffix, file)
        for name in ("sales", "ref", "admissions", "own"):
            connection.execute(f"drop schema {name}{suffix} cascade".encode())
