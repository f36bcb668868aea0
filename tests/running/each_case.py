"""Many small cases in one test: pytest takes longer for each of its tests than such a case does."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Case = TypeVar("Case")


def check_each(cases: Iterable[tuple[str, Case]], check: Callable[[Case], None]) -> None:
    """All of them, by their names, whichever fail; those that did are named, each with its traceback."""
    failed: dict[str, Exception] = {}
    for name, case in cases:
        try:
            check(case)
        except Exception as e:  # noqa: BLE001  # raised below
            e.add_note(f"in the case {name!r}")
            failed[name] = e
    if failed:
        raise ExceptionGroup(f"wrong: {', '.join(failed)}", list(failed.values()))


def check_rows(rows: Iterable[tuple[Any, ...]], check: Callable[..., None]) -> None:
    """The same for rows of a table, whose names are their values; ``check`` gets the values of one."""
    check_each(_named(rows), lambda row: check(*row))


def _named(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for number, row in enumerate(rows):
        yield f"{number}: {repr(row)[:300]}", row
