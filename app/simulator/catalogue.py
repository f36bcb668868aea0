"""The models that the Connect generation lists and takes, as of spring 2026 and as of September 2026.

Knows sections 6.2 of the protocol notes and 5.1 of their second part. Must never know a frame or a chat.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.simulator.knobs import Knobs
from app.simulator.tokens import SiteName

# What clients were seen to send until August 2026. SCENARIO_K2D6 is one client's guess and does not exist
# (kimi-protocol-2.md 5.1), but was taken here before that was known.
_OLD_SCENARIOS = (
    "SCENARIO_K2",
    "SCENARIO_K2D5",
    "SCENARIO_K2D5_TURBO",
    "SCENARIO_K2D6",
    "SCENARIO_CHAT",
    "SCENARIO_OK_COMPUTER",
    "SCENARIO_SEARCH",
    "SCENARIO_RESEARCH",
    "SCENARIO_K1",
    "SCENARIO_K3",
    "SCENARIO_K3_THINKING",
)
_OLD_MODELS = (
    "k2d6",
    "k2d6-thinking",
    "k2d6-agent",
    "k2d6-agent-ultra",
    "k2d6-chat",
    "k2-chat",
    "k3",
    "k3-swarm",
    "k3-agent-ultra",
    "instant",
    "kimi-latest",
)
_NEW_SCENARIOS = ("SCENARIO_K2D5", "SCENARIO_CHAT", "SCENARIO_OK_COMPUTER", "SCENARIO_OK_COMPUTER_SWARM")

_OLD_ENTRIES: list[dict[str, object]] = [
    {
        "key": "k2d6",
        "scenario": "SCENARIO_K2D5",
        "displayName": "K2.6 Instant",
        "description": "Quick response",
        "inputPlaceholder": "Ask anything",
    },
    {
        "key": "k2d6-thinking",
        "scenario": "SCENARIO_K2D5",
        "displayName": "K2.6 Thinking",
        "description": "Deep thinking",
        "thinking": True,
    },
    {
        "key": "k2d6-agent",
        "scenario": "SCENARIO_OK_COMPUTER",
        "displayName": "K2.6 Agent",
        "kimiPlusId": "ok-computer",
        "agentMode": "TYPE_NORMAL",
    },
    {
        "key": "k2d6-agent-ultra",
        "scenario": "SCENARIO_OK_COMPUTER",
        "displayName": "K2.6 Agent Swarm",
        "kimiPlusId": "ok-computer",
        "agentMode": "TYPE_ULTRA",
    },
]

_OLD_LIST: dict[str, object] = {
    "availableModels": _OLD_ENTRIES,
    "defaultScenario": {"scenario": "SCENARIO_K2D5"},
    "defaultChatModel": "k2d6",
    "defaultAgentModel": "k2d6-agent",
}


def _efforts(*names: str) -> list[dict[str, str]]:
    """Efforts under the names that the page shows: the lowest one is always called Standard."""
    shown = {"NONE": "Standard", "LOW": "Standard", "HIGH": "High", "MAX": "Max"}
    if names[0] == "NONE":
        shown["LOW"] = "High"
    return [{"effort": f"REASONING_EFFORT_{name}", "displayName": shown[name]} for name in names]


_CONTEXTS: dict[str, object] = {
    "defaultContextLength": "CONTEXT_LENGTH_L",
    "contextLengthOptions": [
        {"contextLength": "CONTEXT_LENGTH_L", "displayName": "Standard", "available": True},
        {
            "contextLength": "CONTEXT_LENGTH_XL",
            "displayName": "Extra Long",
            "label": "Allegro plan only",
            "minMembershipLevel": "LEVEL_ADVANCED",
        },
    ],
}
_AGENT: dict[str, object] = {
    "scenario": "SCENARIO_OK_COMPUTER",
    "kimiPlusId": "ok-computer",
    "agentMode": "TYPE_NORMAL",
    "reasoningEffortOptions": _efforts("LOW", "HIGH", "MAX"),
    "defaultReasoningEffort": "REASONING_EFFORT_HIGH",
    **_CONTEXTS,
}
_NEW_ENTRIES: list[dict[str, object]] = [
    {
        "id": "k2d6-chat",
        "key": "k2d6",
        "displayName": "Instant",
        "scenario": "SCENARIO_CHAT",
        "reasoningEffortOptions": _efforts("NONE", "LOW"),
        "defaultReasoningEffort": "REASONING_EFFORT_LOW",
    },
    {**_AGENT, "id": "k28-agent-preview", "key": "k28-preview", "displayName": "K2.8", "label": ["Preview"]},
    {**_AGENT, "id": "k3-agent", "key": "k3", "displayName": "K3", "switchableTo": ["k3-agent-swarm"]},
    {
        **_AGENT,
        "id": "k3-agent-swarm",
        "key": "k3-agent-ultra",
        "displayName": "K3 Swarm",
        "scenario": "SCENARIO_OK_COMPUTER_SWARM",
        "agentMode": "TYPE_ULTRA",
        "minMembershipLevel": "LEVEL_BASIC",
        "greeting": "What shall the swarm do?",
    },
]
_NEW_KEYS = {str(entry["id"]): str(entry["key"]) for entry in _NEW_ENTRIES}


def is_new(knobs: Knobs) -> bool:
    """Whether this is Kimi as of September 2026."""
    return knobs.profile == "connect-2026-09"


def listed(knobs: Knobs, site: SiteName, version: str) -> dict[str, object]:
    """The answer to GetAvailableModels. ``version``: the header x-msh-version, which decides what is shown (5.1)."""
    if knobs.catalogue == "empty":
        return {}
    if not is_new(knobs) or _is_old(version):
        return _OLD_LIST
    entries = [_at(site, entry) for entry in _NEW_ENTRIES]
    entries += [{**_NEW_ENTRIES[2], "id": name, "key": name} for name in knobs.catalogue_extra.split(",") if name]
    for entry in entries:
        if knobs.level > 10:
            entry["contextLengthOptions"] = [
                {**option, "available": True} for option in _options(entry.get("contextLengthOptions"))
            ]
    chat = entries[0]
    return {
        "availableModels": entries,
        "defaultScenario": {"scenario": chat["scenario"], "model": chat["id"]},
    }


def _options(value: object) -> Iterable[dict[str, object]]:
    return value if isinstance(value, list) else ()


def _is_old(version: str) -> bool:
    return version.partition(".")[0] < "2"


def _at(site: SiteName, entry: dict[str, object]) -> dict[str, object]:
    """www.kimi.com of August and September 2026 kept the scenario of K2.5 for K2.6 (5.1)."""
    if site == "kimi.com" and entry["scenario"] == "SCENARIO_CHAT":
        return {**entry, "scenario": "SCENARIO_K2D5"}
    return dict(entry)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a request asks for, in the words of the wire."""

    scenario: str
    model: str
    agent_mode: str


def is_taken(choice: Choice, knobs: Knobs) -> bool:
    """Whether such a turn is taken: `Chat` answers invalid_argument to all others (Q24)."""
    if {choice.scenario, choice.model} & set(filter(None, knobs.refuse_forms.split(","))):
        return False
    if not is_new(knobs):
        return choice.scenario in ("", *_OLD_SCENARIOS) and choice.model in ("", *_OLD_MODELS)
    if choice.model in _NEW_KEYS.values() and choice.model not in _NEW_KEYS and knobs.model_names == "ids":
        return False
    known = ("", *_NEW_KEYS, *_NEW_KEYS.values(), *knobs.catalogue_extra.split(","))
    if choice.agent_mode == "TYPE_ULTRA" and choice.scenario == "SCENARIO_OK_COMPUTER" and knobs.swarm == "new":
        return False
    return choice.scenario in ("", *_NEW_SCENARIOS) and choice.model in known
