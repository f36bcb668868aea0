"""Pages that Kimi has found, as both protocols describe them (``kimi-protocol.md`` 3.4, 3.5, 3.7, 5.3, 5.6) → Source.

An address that cannot safely be a link is left out, because clients show it. Must never know which frame it came in.
"""

import re
from collections.abc import Iterator
from typing import Any

from app.chat import Source
from app.upstreams.kimi.json_frames import join_surrogates

_ADDRESS = re.compile(r"https?://[^\s\x00-\x20\x7f]{1,2000}", re.IGNORECASE)
_REF = re.compile(r"[\w:#.-]{1,64}", re.ASCII)
_MAX_TITLE_CHARS = 300


def source(ref: object, page: object) -> Source | None:
    """``page`` has ``url`` and maybe ``title``; None where it or ``ref`` is of another form."""
    if not isinstance(page, dict):
        return None
    url, title = page.get("url"), page.get("title")
    ref = str(ref) if type(ref) is int else ref
    if not isinstance(ref, str) or not _REF.fullmatch(ref):
        return None
    if not isinstance(url, str) or not _ADDRESS.fullmatch(url := join_surrogates(url)):
        return None
    title = join_surrogates(title) if isinstance(title, str) else ""
    return Source(ref, url, " ".join(title.split())[:_MAX_TITLE_CHARS] or url)


def sources_of_search(msg: object) -> Iterator[Source]:
    """``search_plus.msg``: one page per ``get_res``. That its running number is the one in ``[^n^]`` is inferred:
    the site asks ``rag-refs`` for it, whose answers look the same."""
    if isinstance(msg, dict) and msg.get("type") == "get_res":
        yield from _if_any(source(msg.get("successNum"), msg))


def sources_of_cards(cards: object) -> Iterator[Source]:
    """``ref_docs.ref_cards``: only their ``url`` is certain. A card's own number counts, else its place in the
    list."""
    for place, card in enumerate(cards if isinstance(cards, list) else (), start=1):
        if isinstance(card, dict):
            number = card.get("ref_id")
            yield from _if_any(source(place if number is None else number, card))


def sources_of_ref(ref: dict[str, Any]) -> Iterator[Source]:
    """A ``ref`` frame of the K2 era: its id is the number in ``[^n^]``."""
    search = ref.get("search")
    if isinstance(search, dict):
        yield from _if_any(source(ref.get("id") or search.get("id"), search.get("base")))


def sources_of_message(refs: object) -> Iterator[Source]:
    """``message.refs``, as listings have it and now and then a frame (``kimi-protocol-2.md`` 5.5)."""
    chunks = refs.get("searchChunks") if isinstance(refs, dict) else None
    for chunk in chunks if isinstance(chunks, list) else ():
        if isinstance(chunk, dict):
            yield from _if_any(source(chunk.get("id"), chunk.get("base")))


def sources_of_tool(tool: object) -> Iterator[Source]:
    """The result of ``web_search`` since K2.5: each page's ``refIndex`` is what its markers say."""
    contents = tool.get("contents") if isinstance(tool, dict) else None
    for content in contents if isinstance(contents, list) else ():
        result = content.get("searchResult") if isinstance(content, dict) else None
        if isinstance(result, dict):
            yield from _if_any(source(result.get("refIndex"), result.get("base")))


def _if_any(found: Source | None) -> Iterator[Source]:
    if found is not None:
        yield found
