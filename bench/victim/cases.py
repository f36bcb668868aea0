"""The cases: which attack, and what the hostile upstream answers to it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.servers import HOST
from bench.victim.attacks import FILES_PORT


@dataclass(frozen=True, slots=True)
class Case:
    """One attack. ``behaviour``: what the hostile upstream answers. ``generation``: the protocol that it speaks; the
    victim uses the other one. ``is_short``: it is part of the run in the tests. ``is_usual``: it resembles no other
    case, and is run where nothing else is asked for."""

    group: str
    title: str
    attack: str
    behaviour: str = "short"
    generation: str = "connect"
    is_short: bool = False
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def is_usual(self) -> bool:
        return self.title not in _LIKE_OTHERS


_NO_KEY = (
    "endless body, wrong key",
    "endless chunks, wrong key",
    "endless tiny chunks, wrong key",
    "endless body, unknown path",
    "endless body, wrong method",
    "endless body, health check",
    "pipelined requests",
    "pipelined requests, 50 connections",
    "pipelined documentation, 50 connections",
    "pipelined console, 50 connections",
    "pipelined pages, unread",
    "trickling heads",
    "half heads",
    "silent connections",
    "fat heads",
    "forwarded hops",
    "slashes",
    "many header fields",
    "connection flood",
    "wrong keys",
)
_BODIES = ("endless tiny chunks", "endless trailers", "tiny chunks", "half bodies", "slow bodies")
_REQUESTS = (
    "400,000 messages",
    "parts",
    "tools",
    "unknown fields",
    "numbers",
    "empty objects",
    "brackets",
    "broken JSON",
    "16 MB of ASCII",
    "16 MB of Chinese",
    "16 MB, one of it an emoji",
    "16 MB of escapes",
    "16 MB of quotes",
    "16 MB of white space",
    "16 MB counted",
    "16 MB with usage",
    "model of 16 MB",
    "name of 16 MB",
    "idempotent, 16 MB",
    "conversations, 16 MB",
    "400,000 input items",
    "input references",
    "tool results",
    "prompt of numbers",
    "schema of 16 MB",
    "nested references",
    "schemas, 20 at once",
)
_UPSTREAM = (
    ("an HTTP chunk of 2 GB", "huge_chunk"),
    ("a gzip body of 3 GB", "gzip_body"),
    ("envelopes that unpack to 900 KB of values", "gzip_envelopes"),
    ("frames of 7 MB of values", "structured_frames"),
    ("frames with half surrogate pairs", "half_pairs"),
    ("100,000 unknown kinds", "unknown_kinds"),
    ("empty envelopes", "empty_envelopes"),
    ("another chat in each frame", "many_chats"),
    ("a million blocks", "many_blocks"),
    ("the whole message again and again", "repeated_message"),
    ("heartbeats without an end", "endless_heartbeats"),
    ("20 million citation markers", "markers"),
    ("a marker without an end", "marker_chain"),
    ("line ends and back-ticks", "newlines"),
    ("a response head of 6 MB", "large_head"),
    ("interim responses without an end", "endless_interim"),
    ("trailers without an end", "endless_trailers"),
    ("the size of an HTTP chunk without an end", "endless_chunk_size"),
    ("a JSON error without an end", "endless_json"),
)
_SSE = (
    ("SSE: a line without an end", "sse_endless_line"),
    ("SSE: an event without an end", "sse_endless_event"),
    ("SSE: 100,000 unknown kinds", "sse_unknown_kinds"),
    ("SSE: an HTTP chunk of 2 GB", "sse_huge_chunk"),
    ("SSE: a gzip body of 3 GB", "sse_gzip_body"),
    ("SSE: JSON lines without an end", "sse_json"),
    ("SSE: events without an end", "sse_flood"),
    ("SSE: a body without HTTP chunks", "sse_close_delimited"),
)

_FILES = {
    "files by id": {},
    "files by address": {"FETCH_URLS": "1", "FETCH_HOSTS": f"{HOST}:{FILES_PORT}"},
    # 50 MB and a third.
    "files in bodies": {"MAX_BODY_BYTES": "73400320"},
}

_SHORT = {
    "endless tiny chunks, wrong key",
    "half heads",
    "400,000 messages",
    "16 MB, one of it an emoji",
    "an HTTP chunk of 2 GB",
    "line ends and back-ticks",
}
_LIKE_OTHERS = {
    "endless body, health check",
    "endless body, unknown path",
    "pipelined requests, 50 connections",
    "silent connections",
    "forwarded hops",
    "slashes",
    "parts",
    "tools",
    "numbers",
    "empty objects",
    "prompt of numbers",
    "16 MB of white space",
    "16 MB of quotes",
    "name of 16 MB",
    "model of 16 MB",
    "schema of 16 MB",
    "schemas, 20 at once",
    "tool results",
    "input references",
    "one long stop sequence",
    "empty envelopes",
    "heartbeats without an end",
    "interim responses without an end",
    "trailers without an end",
    "frames with half surrogate pairs",
    "ten answers of words without an end",
    "ten answers of words that are not read",
    "an answer of emojis without an end",
    "SSE: JSON lines without an end",
    "SSE: events without an end",
    "SSE: a body without HTTP chunks",
    "SSE: 100,000 unknown kinds",
}


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield Case("", "nothing", "nothing", is_short=True)
    for group, names in (("without a key", _NO_KEY), ("bodies", _BODIES), ("requests", _REQUESTS)):
        yield from (Case(group, name, name, is_short=name in _SHORT) for name in names)
    yield Case("bodies", "40 requests of 16 MB that wait", "waiting requests", "slow_answer")
    for title, settings in _FILES.items():
        yield Case("files of 50 MB, 20 at once", title, title, settings=settings)
    yield Case("requests", "unique objects", "unique objects", "objects_answer")
    yield Case("requests", "pattern", "pattern", "letters_answer")
    yield Case("requests", "a million stop sequences", "stop sequences", "same_letter")
    yield Case("requests", "one long stop sequence", "one long stop sequence", "same_letter")
    yield Case("upstream", "a large answer for a schema", "unique objects", "large_json_answer")
    for title, behaviour in _UPSTREAM:
        yield Case("upstream", title, "ask again", behaviour, is_short=title in _SHORT)
    for title, behaviour in (("words", "endless_answer"), ("emojis", "endless_large_answer")):
        yield Case("upstream", f"an answer of {title} without an end", "ask for a whole answer", behaviour)
        yield Case("upstream", f"ten answers of {title} without an end", "ask for ten whole answers", behaviour)
        yield Case("upstream", f"ten answers of {title} that are not read", "ask and read nothing", behaviour)
    for title, behaviour in _SSE:
        yield Case("upstream", title, "ask again", behaviour, "sse", is_short=title in _SHORT)
