"""The fields beside an image or a document that have no effect here, to be named in ``x-ignored-params``.

Must never know the fields of any one API.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from app.web.request_body import has_effect

# They say what may be kept for later requests, and change no answer.
_OF_CACHES = frozenset(("cache_control", "prompt_cache_breakpoint"))
# What ``detail`` may ask for of a file that is sent as it is. At OpenAI "auto" is the default, "original" the size in
# which it came, "high" the most that is looked at. "low" asks for less, for fewer tokens.
_IN_FULL = ("auto", "high", "original")
# How the content of a file may be given. The first one that is there is taken.
_SOURCES = ("file_data", "image_url", "file_url", "file_id")


def unused_fields(fields: Mapping[str, Any] | None, place: str, *used: str) -> Iterator[str]:
    """The places of fields that have no effect. ``used``: the names of those that have one."""
    for name, value in (fields or {}).items():
        is_met = name in used or name in _OF_CACHES or (name == "detail" and value in _IN_FULL)
        if not is_met and has_effect(value):
            yield f"{place}.{name}"


def unused_sources(fields: Mapping[str, Any], place: str) -> Iterator[str]:
    """Where a file is given in several ways: the places of those that are not taken."""
    given = [name for name in _SOURCES if isinstance(fields.get(name), str) and fields[name]]
    yield from (f"{place}.{name}" for name in given[1:])
