"""The text that a tool of the kind ``text`` is given. Small enough to be read in the process itself."""

import contextlib
import json
import re
from collections.abc import Sequence

# A whole text in a code fence, which may lack its end: the marks, what stands between them.
FENCED = re.compile(r"\A\s*(`{3,}|~{3,})[^\n`]*\n(.*?)(?:\n?[ \t]*\1\s*)?\Z", re.DOTALL)


def text_of_call(body: str, values: Sequence[tuple[str, str]], name: str) -> str:
    """What a tool that takes one free text is given: the text itself, also where it was put into JSON, as a value or
    into a code fence."""
    if values:
        return values[-1][1] if not body.strip() else body
    fenced = FENCED.match(body)
    inside = fenced[2] if fenced is not None and body.rstrip().endswith(fenced[1]) else body
    if inside.lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(inside)
            keys = {"input", name, *re.split(r"[-_.]", name)}
            if isinstance(value, dict) and len(value) == 1:
                ((key, text),) = value.items()
                if key in keys and isinstance(text, str):
                    return text
    return inside
