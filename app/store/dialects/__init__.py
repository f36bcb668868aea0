"""Statements that SQLite and PostgreSQL spell differently. ``sqlite`` and ``postgresql`` say how each is opened.

Knows no table.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

Insert = Callable[[sa.TableClause], Any]


@dataclass(frozen=True, slots=True, eq=False)
class PerDialect:
    """A statement that SQLAlchemy builds from a different ``insert`` for each dialect."""

    build: Callable[[Insert], sa.ClauseElement]

    def build_for(self, dialect: str) -> sa.ClauseElement:
        """The statement for ``sqlite`` or ``postgresql``. Imports only the dialect in use, for a fast start."""
        if dialect == "postgresql":
            from sqlalchemy.dialects.postgresql import insert as postgresql_insert

            return self.build(postgresql_insert)
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        return self.build(sqlite_insert)


def per_dialect(build: Callable[[Insert], sa.ClauseElement]) -> PerDialect:
    """``build`` gets the ``insert`` that has ``on_conflict_do_update`` and ``on_conflict_do_nothing``."""
    return PerDialect(build)


Statement = sa.ClauseElement | PerDialect


class one_of(sa.ColumnElement[bool]):  # in lower case, because it is used as SQLAlchemy's functions are
    """Whether ``column`` is one of the texts in the parameter ``name``, whose value is made with ``listed``.

    Not SQLAlchemy's IN: its SQL depends on the number of values, so it would be compiled at every call.
    """

    inherit_cache = False
    type = sa.Boolean()

    def self_group(self, against: Any = None) -> Self:  # noqa: ARG002  # the signature is SQLAlchemy's
        # SQLAlchemy would add "= 1" in SQLite, which then reads the whole table instead of an index.
        return self

    def __init__(self, column: sa.ColumnElement[Any], name: str) -> None:
        self.column = column
        self.texts = sa.bindparam(name, type_=sa.Text())


class one_pair_of(sa.ColumnElement[bool]):
    """As ``one_of``, for two columns. The value of the parameter is made with ``listed_pairs``."""

    inherit_cache = False
    type = sa.Boolean()

    def self_group(self, against: Any = None) -> Self:  # noqa: ARG002  # the signature is SQLAlchemy's
        # SQLAlchemy would add "= 1" in SQLite, which then reads the whole table instead of an index.
        return self

    def __init__(self, first: sa.ColumnElement[Any], second: sa.ColumnElement[Any], name: str) -> None:
        self.first, self.second = first, second
        self.pairs = sa.bindparam(name, type_=sa.Text())


def listed(texts: Sequence[str]) -> str:
    """The value for ``one_of``: a JSON list."""
    return json.dumps(list(texts))


def listed_pairs(pairs: Iterable[tuple[str, str]]) -> str:
    """The value for ``one_pair_of``: a JSON list of lists."""
    return json.dumps([list(pair) for pair in pairs])


@compiles(one_of, "sqlite")
def _one_of_in_sqlite(element: one_of, compiler: SQLCompiler, **options: Any) -> str:
    column, texts = compiler.process(element.column, **options), compiler.process(element.texts, **options)
    return f"{column} IN (SELECT value FROM json_each({texts}))"  # noqa: S608  # SQLAlchemy made both


@compiles(one_of, "postgresql")
def _one_of_in_postgresql(element: one_of, compiler: SQLCompiler, **options: Any) -> str:
    column, texts = compiler.process(element.column, **options), compiler.process(element.texts, **options)
    return f"{column} IN (SELECT json_array_elements_text(CAST({texts} AS JSON)))"


@compiles(one_pair_of, "sqlite")
def _one_pair_of_in_sqlite(element: one_pair_of, compiler: SQLCompiler, **options: Any) -> str:
    first, second, pairs = (compiler.process(e, **options) for e in (element.first, element.second, element.pairs))
    members = "json_extract(value, '$[0]'), json_extract(value, '$[1]')"
    return f"({first}, {second}) IN (SELECT {members} FROM json_each({pairs}))"  # noqa: S608  # SQLAlchemy made all


@compiles(one_pair_of, "postgresql")
def _one_pair_of_in_postgresql(element: one_pair_of, compiler: SQLCompiler, **options: Any) -> str:
    first, second, pairs = (compiler.process(e, **options) for e in (element.first, element.second, element.pairs))
    source = f"json_array_elements(CAST({pairs} AS JSON)) AS pair"
    return f"({first}, {second}) IN (SELECT pair->>0, pair->>1 FROM {source})"  # noqa: S608  # SQLAlchemy made all
