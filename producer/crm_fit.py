"""The comparison of a description with the tables that a database has."""

import difflib
from collections.abc import Iterator, Mapping

from schemas.crm_description import CrmDescription, DescribedOutcome, TableName
from schemas.crm_tables import FoundTable, state_tables

Tables = Mapping[TableName, FoundTable]
# The kinds of tables whose changes a trigger sees.
WITH_TRIGGERS = frozenset({"r", "p"})


def described_tables(description: CrmDescription) -> list[TableName]:
    """Return the tables that a description names: of leads, of lookups, and of outcomes."""
    outcome = [description.outcome.table] if description.outcome else []
    return list(dict.fromkeys([*state_tables(description), *outcome]))


def percent(share: float) -> str:
    """Return a share above 0 as text."""
    return f"{share:.0%}" if share >= 0.005 else "under 1%"


def unfit(description: CrmDescription, tables: Tables) -> list[str]:
    """Return a sentence for each table and column that the database does not have."""
    return list(dict.fromkeys(_absent(description, tables)))


def outcome_is_no_table(outcome: DescribedOutcome) -> str:
    """Return what it means that outcomes are in a view, and what to do."""
    return (
        f"{outcome.table} is no table: triggers cannot see its outcomes, so none are sent; `train` "
        "reads it all the same; for `follow`, describe the table below it, or run "
        "`leadstream import --outcomes` with an export of it on a schedule"
    )


def _absent(description: CrmDescription, tables: Tables) -> Iterator[str]:
    if description.database is None:
        yield "it has no [database]: name the table of leads"
        return
    for table in described_tables(description):
        if table not in tables:
            yield f"there is no table {table}, or this role may not see its schema"
    for key, table, column in named_columns(description):
        if table in tables and column not in tables[table].columns:
            near = difflib.get_close_matches(column, tables[table].columns, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield f"{key}: {table} has no column {column!r}{hint}"


def named_columns(description: CrmDescription) -> Iterator[tuple[str, TableName, str]]:
    """Yield every column that the description names, with its key and its table."""
    database, outcome = description.database, description.outcome
    if database is None:
        return
    yield "database.id", database.table, database.id
    if database.version:
        yield "database.version", database.table, database.version
    if database.deleted:
        yield "database.deleted", database.table, database.deleted.column
    if database.origin:
        yield "database.origin", database.table, database.origin.column
    for condition in description.only:
        yield f"rows.only.{condition.column}", database.table, condition.column
    for field in description.fields:
        if field.column:
            yield f"lead.{field.name}", database.table, field.column
    for name, (_, lookup) in description.lookups().items():
        yield f"lead.{name}.lookup.key", lookup.table, lookup.key
        yield f"lead.{name}.lookup.value", lookup.table, lookup.value
    if outcome:
        for column in outcome.columns():
            yield "outcome", outcome.table, column
