"""How it is told that something of a request has no effect: a header, or, in strict mode, a refusal.

Must never know the fields of any API.
"""

import re
from collections.abc import Sequence

from flask import current_app

from app.api.bodies import unsupported


def name_ignored(names: Sequence[str]) -> dict[str, str]:
    """The header that names what has no effect. Raises InvalidRequest for it in strict mode (STRICT_PARAMS)."""
    if names and current_app.config["STRICT_PARAMS"]:
        raise unsupported(names[0], "it has no effect here, and this gateway is set to refuse such")
    # Only plain names are repeated in a header, and not any number of them.
    plain = [name for name in names if re.fullmatch(r"[A-Za-z0-9_.$-]{1,64}", name)]
    return {"x-ignored-params": ", ".join(plain[:50])} if plain else {}
