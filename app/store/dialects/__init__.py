"""Statements that SQLite and PostgreSQL spell differently. How each is opened: ``sqlite`` and ``postgresql``.

Must never know a table, nor what a statement is for.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

Insert = Callable[[sa.TableClause], Any]


@dataclass(frozen=True, slots=True, eq=False)
class PerDialect:
    """A statement that is spelled alike and made of different classes for each kind of database."""

    build: Callable[[Insert], sa.ClauseElement]

    def made_for(self, dialect: str) -> sa.ClauseElement:
        """For the dialect of this name. Only what is in use is loaded: a start is waited for."""
        if dialect == "postgresql":
            from sqlalchemy.dialects.postgresql import insert as postgresql_insert

            return self.build(postgresql_insert)
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        return self.build(sqlite_insert)


def per_dialect(build: Callable[[Insert], sa.ClauseElement]) -> PerDialect:
    """``build`` gets the ``insert`` that has ``on_conflict_do_update`` and ``on_conflict_do_nothing``."""
    return PerDialect(build)


Statement = sa.ClauseElement | PerDialect


class one_of(sa.ColumnElement[bool]):  # reads as a function of SQLAlchemy's, and is used as one
    """``column`` is one of the texts in the parameter ``name``, which is made with ``listed``.

    Not SQLAlchemy's IN, whose SQL changes with the number of values and must be made anew for every call.
    """

    inherit_cache = False
    type = sa.Boolean()

    def __init__(self, column: sa.ColumnElement[Any], name: str) -> None:
        self.column = column
        self.texts = sa.bindparam(name, type_=sa.Text())


def listed(texts: Sequence[str]) -> str:
    """The value for ``one_of``."""
    return json.dumps(list(texts))


@compiles(one_of, "sqlite")
def _one_of_in_sqlite(element: one_of, compiler: SQLCompiler, **options: Any) -> str:
    column, texts = compiler.process(element.column, **options), compiler.process(element.texts, **options)
    return f"{column} IN (SELECT value FROM json_each({texts}))"  # noqa: S608  # both were made by SQLAlchemy


@compiles(one_of, "postgresql")
def _one_of_in_postgresql(element: one_of, compiler: SQLCompiler, **options: Any) -> str:
    column, texts = compiler.process(element.column, **options), compiler.process(element.texts, **options)
    return f"{column} IN (SELECT json_array_elements_text(CAST({texts} AS JSON)))"  # as above
