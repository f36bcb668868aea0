"""Everything about the simulator that can be turned: names, defaults, meanings, and how words become values.

Knows the knobs and the `[[sim key=value]]` words of a prompt. Must never know what a knob does to the bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar, cast, get_type_hints

from app.simulator import faults
from app.simulator.tool_behaviours import BEHAVIOURS

T = TypeVar("T")

SSE_PROFILES = ("sse-2024", "sse-2025")
CONNECT_PROFILES = ("connect-2025", "connect-2026", "connect-2026-09")


class BadKnob(ValueError):
    """A name or a value that no knob has; the message names the knob and the accepted form."""


def _knob(default: T, meaning: str) -> T:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """One setting of all knobs. The defaults behave like the real service on a good day."""

    # what is served
    profile: str = _knob(
        "all", "sse-2024, sse-2025, connect-2025, connect-2026, connect-2026-09, or all (sse-2025 and connect-2026)"
    )
    gone_status: int = _knob(404, "status on the paths of a generation that the profile lacks: 404, 405, 410, 307")
    record: bool = _knob(True, "keep requests for GET /_sim/requests; 0 in benchmarks")

    # accounts
    slot_scope: str = _knob("chat", "one stream at a time per chat, user, or none (open question Q2)")
    slot_free_delay_s: float = _knob(0.0, "how long the slot stays taken after a client left")
    foreign_chat: str = _knob("not_found", "another account's chat: not_found or forbidden (Q25)")
    auth_in_stream: bool = _knob(False, "Connect Chat reports a bad token inside a 200 stream (Q17)")
    access_lifetime_s: float = _knob(900.0, "of refreshed access tokens; newer refreshes gave 30 days (L3)")
    refresh_lifetime_s: float = _knob(7_776_000.0, "of rotated refresh tokens")
    refresh_rotates: bool = _knob(True, "a used refresh token is dead (L3); 0 keeps it alive")
    refresh_grace_s: float = _knob(0.0, "a used refresh token works once more for so long (Q12)")
    refresh_stale_kills: bool = _knob(False, "using a dead refresh token kills its whole chain")
    refresh_delay_s: float = _knob(0.0, "a refresh takes so long")

    # Kimi as of September 2026, with the open questions P1 to P17 of the protocol notes' second part
    site: str = _knob(
        "any",
        "any (tokens of both sites are good), kimi.com, kimi.ai, or by_host: requests to the host localhost reach "
        "kimi.ai, all others kimi.com",
    )
    foreign_site: str = _knob("refuse", "a token of the other site: refuse (401) or accept (P10)")
    level: int = _knob(10, "membership level of refreshed tokens (P13); above 10 the long context is available")
    catalogue: str = _knob("listed", "GetAvailableModels: listed, absent (404) or empty")
    catalogue_extra: str = _knob("", "ids of more agents in the list, with commas (P17)")
    refuse_forms: str = _knob("", "scenarios and models that Chat refuses, with commas")
    model_names: str = _knob("ids", "options.model may be: ids, or both ids and keys of the list")
    swarm: str = _knob("both", "the scenario of a swarm: new, or both the new and the old one (P12)")
    stats: str = _knob("free", "GetSubscriptionStats: free, paid, strings (numbers as text), empty or absent")
    used_ratio: float = _knob(0.4125, "the part of the credits that is used")
    expire_time: str = _knob("2030-01-14T08:00:00Z", "when the credits are renewed (P14)")
    paywall: str = _knob('{"title":"Upgrade","level":"LEVEL_BASIC"}', "JSON of the object `paywall` (P9)")
    unknown_parent: str = _knob(
        "", "an unknown parent_id: refuse (the default of 2026-09) or ignore (that of the others, Q25)"
    )
    resume: str = _knob("", "ResumeChat: ok (the default of 2026-09) or absent (that of the others)")
    resume_for_s: float = _knob(600.0, "how long after its end a stream can be resumed (P16)")
    resume_overlap: int = _knob(0, "a resumed stream repeats so many frames")
    get_message: str = _knob("", "GetMessage: ok (the default of 2026-09) or absent (that of the others)")
    status_numbers: bool = _knob(False, "GetMessage gives roles and statuses as numbers")
    end_times: int = _knob(
        1, "`end`, `end_after_bytes` and `stall_after` strike the first N streams of an answer; 0: all of them"
    )
    linger_s: float = _knob(0.0, "the stream stays open for so long after its last event")
    upload_max_bytes: int = _knob(100 << 20, "larger files are refused (P1)")
    upload_refusal: int = _knob(413, "status of the refusal of a file (P2)")
    shed_uploads: int = _knob(0, "the first N uploads are refused with resource_exhausted")
    parse_answers: int = _knob(1, "so often a new file is PROCESSING; -1: always (P4: a chat takes it all the same)")
    parse_failure: str = _knob("PROCESS_STATUS_FAILED", "the status of files whose name contains `broken` (P3)")
    parse_numbers: bool = _knob(False, "the statuses of files are numbers")
    unfinished_file: str = _knob("accept", "a chat with a file that is PROCESSING: accept or refuse (P4)")
    unknown_file: str = _knob(
        "refuse", "a chat with a file that is unknown or another account's: refuse or accept (P5)"
    )
    files_frame: str = _knob("array", "chat.files: array, object, or none (P6)")
    agent_files: bool = _knob(True, "agents take files (P7)")
    signature_s: float = _knob(3600.0, "how long a file's address works (P15)")
    object_redirect: bool = _knob(False, "a file's address answers 307 to another one")

    # what goes wrong
    fail: str = _knob("", "name of a fault (list below), or empty")
    fail_at: str = _knob("", "where a run-wide fault strikes: turn, create, refresh, delete, other or any")
    fail_for: str = _knob("", "only these accounts (user names with commas)")
    fail_models: str = _knob("", "only turns of these Connect models or scenarios (with commas)")
    fail_times: int = _knob(0, "only the first N times, counted per run or per prompt; 0 = always")
    fail_after: int | None = _knob(None, "a fault in the stream comes after N text tokens")
    fail_status: int | None = _knob(None, "HTTP status instead of the fault's own (Q1)")
    fail_code: str = _knob("", "Connect error code, or SSE error_type, instead of the fault's own")
    fail_reason: str = _knob("", "Connect reason instead of the fault's own")
    fail_message: str = _knob("", "human text; sets Connect's error.message, which is absent otherwise (Q18)")
    fail_severity: str = _knob("SEVERITY_BLOCK_RETRACT", "severity of a block.exception")
    retry_after: str = _knob("", "value of a Retry-After header on refusals (Q30)")
    redirect_to: str = _knob("http://kimi.invalid", "origin of redirects")
    delete_after_moderation: str = _knob("ok", "ok, or error: a moderated chat answers 500 to DELETE")

    # what is answered
    say: str | None = _knob(None, "exact answer text")
    recite: str = _knob(
        "", "a regular expression: the answer names what matches it in the whole chat, each once, in order"
    )
    think: str | None = _knob(None, "exact thinking text; empty for none")
    tokens: int | None = _knob(None, "an answer of N filler tokens")
    token_chars: int = _knob(4, "characters per token")
    stamp: bool = _knob(False, "each text token starts with `<monotonic ns>;`")
    search: int = _knob(2, "results found when the request asks for a search")
    cite: bool = _knob(False, "cite the results in the text")
    refs: str = _knob(
        "", "Connect 2025: ref frames before (the default) or after the text (Q28); SSE: ref_docs there"
    )
    length_after: int | None = _knob(None, "`length` after N tokens; the rest is for `continue`")
    length_times: int = _knob(1, "how many streams of one answer end in `length`")
    req_on_continue: bool = _knob(False, "a continued stream repeats `req` (Q5)")
    done: str = _knob("once", "SSE `done` before all_done: once, none or twice (Q4)")
    tools: str = _knob("", "how functions in a prompt are taken: a behaviour of the list below; empty: obey if asked")
    call: str = _knob("", "the function that is called; empty: the one that the prompt demands, or the first")
    args: str = _knob("", "its arguments; empty: from what its schema requires")
    calls: int = _knob(2, "how many calls `tools=parallel` makes")
    tools_times: int = _knob(0, "`tools`, or `say`, only for the first N turns with functions; 0 = always")
    then: str | None = _knob(None, "exact answer text after `tools_times` turns, in place of obeying")
    plan: str = _knob("", "steps as JSON: words, a call {call, args, value, say}, or a list of calls at once")
    empty_text: bool = _knob(False, "an event with empty text after each token")

    # when
    first_delay_s: float = _knob(0.0, "before the first content")
    read_us: float = _knob(0.0, "before the first content, for each character of the question: microseconds")
    delay_s: float = _knob(0.0, "between tokens, held as a rate")
    ping_s: float = _knob(0.0, "SSE `ping` while waiting; 0 = never")
    heartbeat_s: float = _knob(10.0, "Connect heartbeat while waiting (Q16); 0 = only the first")
    gate: str = _knob("", "name of a gate that the answer waits at")
    gate_after: int = _knob(1, "after N tokens; 0 = headers sent, -1 = before the headers")
    create_gate: str = _knob("", "name of a gate that a new chat waits at, once it is open, before its id is told")
    stall_after: int | None = _knob(None, "silence after N tokens until the client leaves")

    # how the bytes travel
    framing: str = _knob("chunked", "chunked, or close: delimited by the end of the connection")
    cut: str = _knob("none", "none, event, line, byte or random:SEED: what is one write and one HTTP chunk")
    merge: int = _knob(1, "events per write")
    crlf: bool = _knob(False, "SSE lines end in CR LF")
    comments: bool = _knob(False, "a `: keep-alive` comment (Connect: a heartbeat) after each token")
    unknown: bool = _knob(False, "unknown events, masks and frames between the known ones")
    end: str = _knob("clean", "clean, close (no last chunk), reset (RST) or stall")
    end_after_bytes: int | None = _knob(None, "cut the body after exactly N bytes, then `end`")

    # the Connect generation only
    huge_frame: int | None = _knob(None, "after the first token, a frame that declares N bytes and never comes")
    gzip_frames: bool = _knob(False, "text frames compressed, flag 0x01")
    degrade: bool = _knob(False, "notification TYPE_MODEL_DEGRADE before the answer (L9)")
    completion: str = _knob("status", "status, or whole: the final message repeats its blocks")
    reset_block: bool = _knob(False, "a draft of the text block is set first and replaced by the next set")
    text_blocks: int = _knob(1, "the answer is spread over N text blocks")


_TYPES = get_type_hints(Knobs)
_CHOICES = {
    "profile": (*SSE_PROFILES, *CONNECT_PROFILES, "all"),
    "site": ("any", "kimi.com", "kimi.ai", "by_host"),
    "foreign_site": ("refuse", "accept"),
    "catalogue": ("listed", "absent", "empty"),
    "model_names": ("ids", "both"),
    "swarm": ("new", "both"),
    "stats": ("free", "paid", "strings", "empty", "absent"),
    "unknown_parent": ("", "refuse", "ignore"),
    "resume": ("", "ok", "absent"),
    "get_message": ("", "ok", "absent"),
    "unfinished_file": ("accept", "refuse"),
    "unknown_file": ("accept", "refuse"),
    "files_frame": ("array", "object", "none"),
    "slot_scope": ("chat", "user", "none"),
    "foreign_chat": ("not_found", "forbidden"),
    "fail_at": ("", "turn", "create", "refresh", "delete", "other", "any"),
    "delete_after_moderation": ("ok", "error"),
    "done": ("once", "none", "twice"),
    "framing": ("chunked", "close"),
    "end": ("clean", "close", "reset", "stall"),
    "completion": ("status", "whole"),
    "refs": ("", "before", "after"),
    "tools": ("", *BEHAVIOURS),
}
_CUT = re.compile(r"none|event|line|byte|random:\d+")

# Quoted values may hold anything, also `]]`.
_DIRECTIVE = re.compile(r'\[\[sim\b((?:"(?:[^"\\]|\\.)*"|\](?!\])|[^"\]])*)\]\]', re.DOTALL)
_WORD = re.compile(r'(\w+)(?:=("(?:[^"\\]|\\.)*"|[^\s"]*))?', re.DOTALL)


def meanings() -> list[tuple[str, str, str]]:
    """Name, default and meaning of every knob, in the order of this file."""
    return [(f.name, str(f.default), f.metadata["meaning"]) for f in fields(Knobs)]


def turned(knobs: Knobs, changes: Mapping[str, object]) -> Knobs:
    """The knobs with some of them changed; values may be JSON values or words. Raises BadKnob."""
    return replace(knobs, **cast(Any, {name: _value(name, raw) for name, raw in changes.items()}))


def assignment(text: str) -> tuple[str, str]:
    """The two halves of the command line's `key=value`."""
    name, equals, value = text.partition("=")
    if not equals:
        raise BadKnob(f"expected key=value, got {text!r}")
    return name, value


def split_prompt(text: str) -> tuple[str, dict[str, str]]:
    """The text without its `[[sim ...]]` words, and the words; later ones win, `reset` drops the earlier."""
    if "[[sim" not in text:
        return text, {}
    words: dict[str, str] = {}
    for directive in _DIRECTIVE.finditer(text):
        for name, value in _WORD.findall(directive[1]):
            if name == "reset":
                words.clear()
            else:
                words[name] = _unquoted(value) if value else "1"
    return _DIRECTIVE.sub("", text).strip(), words


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value, strict=False))
    except ValueError as error:
        raise BadKnob(f"bad quoted value {value}: {error}") from error


def _value(name: str, raw: object) -> object:
    if name not in _TYPES:
        raise BadKnob(f"no knob is called {name!r}")
    try:
        value = _converted(_TYPES[name], raw)
    except (KeyError, TypeError, ValueError) as error:
        raise BadKnob(f"{name}: expected {_TYPES[name]}, got {raw!r}") from error
    _check_choice(name, value)
    return value


def _converted(kind: object, raw: object) -> object:
    optional = kind in (int | None, float | None, str | None)
    if optional and (raw is None or (raw == "none" and kind != str | None)):
        return None
    if kind is bool:
        return {"1": True, "true": True, "0": False, "false": False}[str(raw).lower()]
    if kind in (int, int | None):
        return int(str(raw))
    if kind in (float, float | None):
        return float(str(raw))
    if not isinstance(raw, str):
        raise TypeError
    return raw


def _check_choice(name: str, value: object) -> None:
    allowed = _CHOICES.get(name)
    if allowed and value not in allowed:
        raise BadKnob(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")
    if name == "fail" and value and not faults.is_known(str(value)):
        raise BadKnob(f"fail: no fault is called {value!r}")
    if name == "cut" and not _CUT.fullmatch(str(value)):
        raise BadKnob(f"cut: expected none, event, line, byte or random:SEED, got {value!r}")
