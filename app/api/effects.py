"""What becomes of the parameters that have no effect here: refused by name, or named in a header.

Must never know the fields of any one API.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import current_app

from app.api.bodies import Fields, has_effect, unsupported

# A reason for each value that cannot be served; None for one that can.
Refusals = Mapping[str, Callable[[Any], str | None]]


def refuse(body: Fields, refusals: Refusals) -> None:
    """Raises InvalidRequest for the first field whose silent loss would break its sender."""
    for name, reason in refusals.items():
        value = getattr(body, name, None)
        if value is not None and (why := reason(value)):
            raise unsupported(name, why)


def ignored(body: Fields, checked_only: Sequence[str], known: Sequence[str] = ()) -> dict[str, str]:
    """The header that names what was sent and has no effect: unknown fields, and ``checked_only``.

    ``known``: fields beside those of the model that have an effect, or are refused.
    """
    unknown = {name: value for name, value in (body.model_extra or {}).items() if name not in known}
    values = {**unknown, **{name: getattr(body, name) for name in checked_only}}
    return name_ignored([name for name, value in values.items() if has_effect(value)])


def name_ignored(names: Sequence[str]) -> dict[str, str]:
    """The header that names what has no effect. Raises InvalidRequest for it in strict mode (STRICT_PARAMS)."""
    if names and current_app.config["STRICT_PARAMS"]:
        raise unsupported(names[0], "it has no effect here, and this gateway is set to refuse such")
    # Only plain names are repeated in a header, and not any number of them.
    plain = [name for name in names if re.fullmatch(r"[A-Za-z0-9_.$-]{1,64}", name)]
    return {"x-ignored-params": ", ".join(plain[:50])} if plain else {}
