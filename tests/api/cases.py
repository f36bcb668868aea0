"""Many small cases in one test, which names each that fails: as a test, each would cost more than its request."""

from collections.abc import Callable, Iterable
from typing import Any


def failures(check: Callable[..., None], cases: Iterable[tuple[Any, ...]]) -> dict[str, str]:
    """The cases for which ``check`` fails, by their values, and what it says."""
    found = {}
    for number, case in enumerate(cases):
        try:
            check(*case)
        except Exception as e:  # noqa: BLE001  # whatever fails has the name of its case
            found[f"{number}: {repr(case)[:300]}"] = f"{type(e).__name__}: {e}"
    return found
