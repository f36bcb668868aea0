"""Many small cases in one test: pytest takes longer for each of its tests than such a case does."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Case = TypeVar("Case")


def check_each(cases: Iterable[tuple[str, Case]], check: Callable[[Case], None]) -> None:
    """All of them, whichever fail; those that did are named, each with its traceback."""
    failed: dict[str, Exception] = {}
    for name, case in cases:
        try:
            check(case)
        except Exception as e:  # noqa: BLE001  # raised below
            e.add_note(f"in the case {name!r}")
            failed[name] = e
    if failed:
        raise ExceptionGroup(f"wrong: {', '.join(failed)}", list(failed.values()))
