"""Many small cases in one test, which names each that fails: as a test, each would cost more than its request."""

from collections.abc import Callable, Iterable
from typing import Any


def failures(check: Callable[..., None], cases: Iterable[tuple[Any, ...]]) -> dict[str, str]:
    """The cases for which ``check`` fails, by their values, and what it says."""
    found = {}
    for number, case in enumerate(cases):
        try:
            check(*case)
        except AssertionError as e:
            found[f"{number}: {case!r:.300}"] = str(e)
    return found
