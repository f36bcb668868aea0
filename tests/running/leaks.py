"""What no log, no database and no output may hold."""

import re
from collections.abc import Sequence

from tests.running.databases import Database
from tests.running.tables import Tables

# What test messages contain, so that a search through logs and databases can find any that leaked.
CANARY = "canary-Kanarienvogel-金丝雀"


def secrets_in(content: bytes, secrets: Sequence[str]) -> list[str]:
    """What of it is there: the canary of the messages, the given secrets, anything like a JWT."""
    wanted = {"message text": CANARY, **{f"secret {i}": secret for i, secret in enumerate(secrets)}}
    found = [kind for kind, text in wanted.items() if text.encode() in content]
    return [*found, "a token"] if re.search(rb"eyJ[\w-]{10,}\.[\w-]{10,}", content) else found


def leaks_in(database: Database, secrets: Sequence[str]) -> list[str]:
    kinds = secrets_in(database.content(), secrets)
    allowed = ["a token"] if "a token" in kinds and Tables(database).keeps_plain_tokens() else []
    return [f"{database.name}: {kind}" for kind in kinds if kind not in allowed]
