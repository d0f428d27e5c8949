"""Brings a database to this version's schema; refuses a newer one."""

import os
import sqlite3
from collections.abc import Iterable, Iterator

from journal.errors import NewerSchema, NotAJournal

APPLICATION_ID = 0x6A726E6C
"""In the file's header, so that another program's database is never taken for a journal."""


def newest_schema(folder: str) -> int:
    """The schema that the numbered scripts of a folder lead to."""
    return len(_scripts(folder))


def schema_of(connection: sqlite3.Connection, location: str, supported: int) -> int:
    """The schema that a database has; 0 for an empty one. Raises NotAJournal or NewerSchema."""
    # One read transaction: another process may be creating the journal at this moment.
    own = not connection.in_transaction
    if own:
        connection.execute("BEGIN")
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    finally:
        if own:
            connection.execute("ROLLBACK")
    if application != APPLICATION_ID and (application, schema, objects) != (0, 0, 0):
        raise NotAJournal(
            f"{location} is a database of another program; name another file for the journal"
        )
    if schema > supported:
        raise NewerSchema(location, schema, supported)
    return int(schema)


def migrate(connection: sqlite3.Connection, folder: str, location: str) -> None:
    """Applies the scripts that the database lacks, all in one transaction that must be open.

    The caller has taken the write lock, so that of many processes one does it and the others see it
    done; a process killed on the way leaves what was there before.
    """
    scripts = _scripts(folder)
    for script in scripts[schema_of(connection, location, len(scripts)) :]:
        with open(script, encoding="utf-8") as file:
            for statement in statements(file):
                connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(scripts)}")


def statements(script: Iterable[str]) -> Iterator[str]:
    """The statements of a script one by one: `executescript` would commit in between."""
    statement = ""
    for line in script:
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _scripts(folder: str) -> list[str]:
    return sorted(
        os.path.join(folder, name)
        for name in os.listdir(folder)
        if name.endswith(".sql") and name[:4].isdigit()
    )
