"""Kimi's own list of models, as a site answers it and as it is kept (``kimi-protocol.md`` 6.2;
``kimi-protocol-2.md`` 5.1).

Checks every name: some become ids in URLs, and all go out again in requests. Must never know what an id of ours
means.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_EFFORT = re.compile(r"REASONING_EFFORT_(NONE|LOW|MEDIUM|HIGH|MAX)")
_CONTEXT = re.compile(r"CONTEXT_LENGTH_[A-Z0-9]{1,8}")
_ORDER = ("NONE", "LOW", "MEDIUM", "HIGH", "MAX")
_MAX_OFFERS = 50


@dataclass(frozen=True, slots=True)
class Context:
    """A length of context that may be chosen, if it is ``available``."""

    name: str
    title: str
    available: bool = False

    @property
    def suffix(self) -> str:
        return self.name.removeprefix("CONTEXT_LENGTH_").lower()


@dataclass(frozen=True, slots=True)
class Offer:
    """A model. ``id`` is what a request names since August 2026; lists of before have a ``key`` only."""

    id: str
    key: str
    scenario: str
    title: str
    kimiplus_id: str = ""
    agent_mode: str = ""
    # Without the prefix that they share, lowest first.
    efforts: tuple[str, ...] = ()
    default_effort: str = ""
    contexts: tuple[Context, ...] = ()
    default_context: str = ""
    # Of a list without efforts: it is the form that thinks.
    thinking: bool = False

    @property
    def names(self) -> frozenset[str]:
        return frozenset(filter(None, (self.id, self.key)))


@dataclass(frozen=True, slots=True)
class Listing:
    """What a site lists."""

    offers: tuple[Offer, ...] = ()

    @property
    def is_old(self) -> bool:
        """Whether it is one of before August 2026."""
        return bool(self.offers) and not any(offer.id for offer in self.offers)


def parse_listing(answer: object) -> Listing:
    """The answer to GetAvailableModels; entries of another form are left out."""
    entries = answer.get("availableModels") if isinstance(answer, dict) else None
    found = [_parse_offer(entry) for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return Listing(tuple(offer for offer in found if offer is not None)[:_MAX_OFFERS])


def encode_listing(listing: Listing) -> dict[str, Any]:
    """What ``parse_listing`` reads."""
    return {"availableModels": [_encode_offer(offer) for offer in listing.offers]}


def _parse_offer(entry: dict[str, Any]) -> Offer | None:
    names = {name: entry.get(name) or "" for name in ("id", "key", "scenario", "kimiPlusId", "agentMode")}
    if not all(isinstance(value, str) and (not value or _NAME.fullmatch(value)) for value in names.values()):
        return None
    id_ = names["id"] or names["key"]
    if not id_ or not names["scenario"]:
        return None
    efforts = sorted(_efforts(entry.get("reasoningEffortOptions")), key=_ORDER.index)
    default = _EFFORT.fullmatch(_text(entry.get("defaultReasoningEffort")))
    context = _text(entry.get("defaultContextLength"))
    return Offer(
        id=names["id"],
        key=names["key"],
        scenario=names["scenario"],
        title=_text(entry.get("displayName"))[:100] or id_,
        kimiplus_id=names["kimiPlusId"],
        agent_mode=names["agentMode"],
        efforts=tuple(dict.fromkeys(efforts)),
        default_effort=default[1] if default else "",
        contexts=tuple(_contexts(entry.get("contextLengthOptions"))),
        default_context=context if _CONTEXT.fullmatch(context) else "",
        thinking=entry.get("thinking") is True,
    )


def _efforts(options: object) -> Iterator[str]:
    for option in options if isinstance(options, list) else ():
        effort = _EFFORT.fullmatch(_text(option.get("effort"))) if isinstance(option, dict) else None
        if effort:
            yield effort[1]


def _contexts(options: object) -> Iterator[Context]:
    for option in options if isinstance(options, list) else ():
        name = _text(option.get("contextLength")) if isinstance(option, dict) else ""
        if _CONTEXT.fullmatch(name):
            yield Context(name, _text(option.get("displayName"))[:100] or name, option.get("available") is True)


def _encode_offer(offer: Offer) -> dict[str, Any]:
    return {
        "id": offer.id,
        "key": offer.key,
        "scenario": offer.scenario,
        "displayName": offer.title,
        "kimiPlusId": offer.kimiplus_id,
        "agentMode": offer.agent_mode,
        "reasoningEffortOptions": [{"effort": f"REASONING_EFFORT_{name}"} for name in offer.efforts],
        "defaultReasoningEffort": f"REASONING_EFFORT_{offer.default_effort}" if offer.default_effort else "",
        "contextLengthOptions": [
            {"contextLength": context.name, "displayName": context.title, "available": context.available}
            for context in offer.contexts
        ],
        "defaultContextLength": offer.default_context,
        "thinking": offer.thinking,
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
