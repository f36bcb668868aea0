"""What each model id means on the wire: one table, and what Kimi's own catalogue adds to it.

Source: ``kimi-protocol.md`` 3.2, 5.2, 6 and 12 (L1, L2, L10). An id is looked up, never taken apart. Must
never know how a request is sent or what an answer looks like.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.chat import Model, Options
from app.errors import UnknownModel
from app.text.tools.describing import WordingName

# Names of the upstreams, as they stand in the store.
SSE = "kimi_rest"
CONNECT = "kimi_connect"


@dataclass(frozen=True, slots=True)
class SseForm:
    """Generation 1. The server takes kimi, k1, k1.5, k2, k1.5-thinking and answers 422 to all else (L1)."""

    model: str
    use_search: bool


@dataclass(frozen=True, slots=True)
class ConnectForm:
    """Generation 2. ``options`` go out as they stand here."""

    scenario: str
    options: Mapping[str, Any]
    search: bool
    kimiplus_id: str = ""
    agent_mode: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One id. ``home`` is the generation that serves it as long as the site has it; ``key`` is the catalogue's
    name of the same thing. Rows of one ``family`` are one model in several forms: one that thinks aloud or not,
    one that searches the web or not. ``own_tools``: what it searches is Kimi's choice."""

    id: str
    title: str
    home: str
    sse: SseForm | None = None
    connect: ConnectForm | None = None
    key: str = ""
    family: str = ""
    thinks: bool = False
    own_tools: bool = False
    # How the client's functions are described to it. Reports differ by model (kimi-protocol-2.md 4.2).
    wording: WordingName = "example"

    @property
    def searches(self) -> bool:
        forms = (self.sse.use_search if self.sse else False, self.connect.search if self.connect else False)
        return any(forms)

    @property
    def served_by(self) -> tuple[str, ...]:
        """The names of the upstreams that can serve it, its home first."""
        able = [name for name, form in ((SSE, self.sse), (CONNECT, self.connect)) if form is not None]
        return tuple(sorted(able, key=lambda name: name != self.home))


# Until July 2026 `thinking` was the switch; since then the site always sends true and the effort decides (5.2).
# Both are sent, so that a server of either time understands. LOW is the effort of the one whole request with
# thinking that was published (T8).
_INSTANT = {"thinking": False, "enable_plugin": False, "reasoning_effort": "REASONING_EFFORT_NONE"}
_THINKING = {"thinking": True, "enable_plugin": False, "reasoning_effort": "REASONING_EFFORT_LOW"}

# The whole of what clients of the K2 era sent (T7).
_K2_OPTIONS = {"thinking": False}


def _k2d5(search: bool, options: Mapping[str, Any]) -> ConnectForm:
    """K2.5 and, since 2026-04, K2.6: Kimi kept the scenario and changed what answers (multi-source; one client
    guesses SCENARIO_K2D6). The variant of 2026-08, SCENARIO_CHAT with `options.model: "k2d6-chat"`
    (multi-source), is not chosen: sites that do not know it yet would refuse it. Where the catalogue offers
    `k2d6-chat`, that is an id of its own."""
    return ConnectForm("SCENARIO_K2D5", options, search)


_ROWS = (
    # K2 is served by both generations: SSE `model: "k2"` (multi-source), Connect SCENARIO_K2 (multi-source).
    Row("k2", "Kimi K2", SSE, SseForm("k2", True), ConnectForm("SCENARIO_K2", _K2_OPTIONS, True), family="k2"),
    Row(
        "k2-nosearch",
        "Kimi K2, without web search",
        SSE,
        SseForm("k2", False),
        ConnectForm("SCENARIO_K2", _K2_OPTIONS, False),
        family="k2",
    ),
    # No capture shows a scenario of K1.5 (SCENARIO_K1 is a guess), so it is served over SSE only.
    Row("k1.5", "Kimi K1.5", SSE, SseForm("k1.5", True), family="k1.5"),
    Row("k1.5-nosearch", "Kimi K1.5, without web search", SSE, SseForm("k1.5", False), family="k1.5"),
    Row(
        "k1.5-thinking",
        "Kimi K1.5, long thinking",
        SSE,
        SseForm("k1.5-thinking", False),
        family="k1.5",
        thinks=True,
    ),
    # The same request, for those who write the ending out of habit.
    Row("k1.5-thinking-nosearch", "Kimi K1.5, long thinking", SSE, SseForm("k1.5-thinking", False), thinks=True),
    # K2.5 and K2.6 are the same request: which of them answers is Kimi's choice.
    Row("kimi-k2.5", "Kimi K2.5", CONNECT, connect=_k2d5(True, _INSTANT), family="k2.5"),
    Row(
        "kimi-k2.5-nosearch",
        "Kimi K2.5, without web search",
        CONNECT,
        connect=_k2d5(False, _INSTANT),
        family="k2.5",
    ),
    Row(
        "kimi-k2.5-thinking",
        "Kimi K2.5, thinking",
        CONNECT,
        connect=_k2d5(True, _THINKING),
        family="k2.5",
        thinks=True,
    ),
    Row(
        "kimi-k2.5-thinking-nosearch",
        "Kimi K2.5, thinking, without web search",
        CONNECT,
        connect=_k2d5(False, _THINKING),
        family="k2.5",
        thinks=True,
    ),
    Row("kimi-k2.6", "Kimi K2.6", CONNECT, connect=_k2d5(True, _INSTANT), key="k2d6", family="k2.6"),
    Row(
        "kimi-k2.6-nosearch",
        "Kimi K2.6, without web search",
        CONNECT,
        connect=_k2d5(False, _INSTANT),
        family="k2.6",
    ),
    Row(
        "kimi-k2.6-thinking",
        "Kimi K2.6, thinking",
        CONNECT,
        connect=_k2d5(True, _THINKING),
        key="k2d6-thinking",
        family="k2.6",
        thinks=True,
    ),
    Row(
        "kimi-k2.6-thinking-nosearch",
        "Kimi K2.6, thinking, without web search",
        CONNECT,
        connect=_k2d5(False, _THINKING),
        family="k2.6",
        thinks=True,
    ),
    # L10 [single-source, 2026-07]: SCENARIO_K3, thinking false, no plugin, no tools; the server attaches tools of
    # its own, so a -nosearch form could not keep its word.
    Row(
        "kimi-k3",
        "Kimi K3",
        CONNECT,
        connect=ConnectForm("SCENARIO_K3", {"thinking": False, "enable_plugin": False}, False),
        family="k3",
        own_tools=True,
    ),
    # The scenario: 6.1, X16 [single-source]. Other clients ask for K3 as an agent: SCENARIO_OK_COMPUTER with key
    # `k3` (multi-source for the key). Where the catalogue offers `k3`, that is an id of its own.
    Row(
        "kimi-k3-thinking",
        "Kimi K3, thinking",
        CONNECT,
        connect=ConnectForm("SCENARIO_K3_THINKING", {"thinking": True, "enable_plugin": False}, False),
        family="k3",
        thinks=True,
        own_tools=True,
    ),
)
_TABLE = {row.id: row for row in _ROWS}
_KEYS = {row.key for row in _ROWS if row.key}
# family → thinks, searches → the row of that form
_FORMS = {(row.family, row.thinks, row.searches): row for row in _ROWS if row.family}

_REFUSES_TOOLS_WHEN_THINKING = ("k2.5", "k2.6")

# What a catalogue may name; anything else is left out. Its keys become ids in URLs and its words go out again.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_OFFERS = 50


@dataclass(frozen=True, slots=True)
class Offer:
    """A model of Kimi's own catalogue (6.2), checked."""

    key: str
    scenario: str
    title: str
    thinking: bool = False
    kimiplus_id: str = ""
    agent_mode: str = ""


def parse_offers(entries: object) -> tuple[Offer, ...]:
    """``availableModels`` → offers; entries of another form are left out."""
    found = [_parse_offer(entry) for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return tuple(offer for offer in found if offer is not None)[:_MAX_OFFERS]


def _parse_offer(entry: dict[str, Any]) -> Offer | None:
    names = {name: entry.get(name) or "" for name in ("key", "scenario", "kimiPlusId", "agentMode")}
    if not all(isinstance(value, str) and (not value or _NAME.fullmatch(value)) for value in names.values()):
        return None
    title = entry.get("displayName")
    if not names["key"] or not names["scenario"]:
        return None
    return Offer(
        key=names["key"],
        scenario=names["scenario"],
        title=title[:100] if isinstance(title, str) and title else names["key"],
        thinking=entry.get("thinking") is True,
        kimiplus_id=names["kimiPlusId"],
        agent_mode=names["agentMode"],
    )


def encode_offers(offers: Sequence[Offer]) -> list[dict[str, Any]]:
    """What ``parse_offers`` reads."""
    return [
        {
            "key": offer.key,
            "scenario": offer.scenario,
            "displayName": offer.title,
            "thinking": offer.thinking,
            "kimiPlusId": offer.kimiplus_id,
            "agentMode": offer.agent_mode,
        }
        for offer in offers
    ]


def _row_of(offer: Offer) -> Row:
    """An offer that the table does not know, under its own key. Agents bring their own tools."""
    form = ConnectForm(
        scenario=offer.scenario,
        options={**(_THINKING if offer.thinking else _INSTANT), "model": offer.key},
        search=not offer.kimiplus_id,
        kimiplus_id=offer.kimiplus_id,
        agent_mode=offer.agent_mode,
    )
    own_tools = bool(offer.kimiplus_id)
    return Row(offer.key, offer.title, CONNECT, connect=form, thinks=offer.thinking, own_tools=own_tools)


def _variant_for(row: Row, options: Options) -> Row:
    """The row of the same family that thinks and searches as asked; what it does not have is left as it is,
    thinking being looked at first."""
    if not row.family:
        # One that only the catalogue knows.
        search = False if options.offers_tools and options.search is None else options.search
        if search is not None and row.key == "" and row.connect is not None and not row.own_tools:
            return replace(row, connect=replace(row.connect, search=search))
        return row
    thinks = row.thinks if options.thinking is None else options.thinking
    searches = row.searches if options.search is None else options.search
    if options.offers_tools:
        # Functions are asked for in words. The form of K2.6 that thinks is reported to refuse that, and clients with
        # functions ask for thinking by habit: only its own id insists on it. A search makes words likely.
        thinks = thinks and (row.thinks or row.family not in _REFUSES_TOOLS_WHEN_THINKING)
        searches = options.search is True
    forms = ((thinks, searches), (thinks, not searches), (row.thinks, searches))
    return next((_FORMS[row.family, *form] for form in forms if (row.family, *form) in _FORMS), row)


@dataclass(slots=True)
class KimiModels:
    """The models of both protocols, with what Kimi's catalogue adds. Shared by the upstreams and by all threads."""

    # The names of the upstreams that KIMI_PROTOCOL leaves switched on.
    switched_on: Sequence[str]
    _offered: dict[str, Row] = field(default_factory=dict)

    def learn(self, offers: Sequence[Offer]) -> None:
        """Adds what the catalogue offers and the table does not know; forgets what it added before."""
        rows = [_row_of(offer) for offer in offers if offer.key not in _KEYS and offer.key not in _TABLE]
        self._offered = {row.id: row for row in rows}

    def of(self, upstream: str) -> list[Model]:
        """Those that this upstream can serve."""
        rows = [*_ROWS, *self._offered.values()]
        return [Model(row.id, row.title) for row in rows if upstream in row.served_by]

    def rank(self, model_id: str, upstream: str) -> int | None:
        """0: the upstream is the model's home. None: it does not serve the model."""
        row = _TABLE.get(model_id) or self._offered.get(model_id)
        if row is None or upstream not in row.served_by:
            return None
        return 0 if row.home == upstream else 1

    @property
    def disabled(self) -> list[str]:
        """Ids of models that only an upstream which is switched off could serve."""
        return [row.id for row in _ROWS if not any(name in self.switched_on for name in row.served_by)]

    def sse(self, model_id: str, options: Options) -> SseForm:
        form = _variant_for(self._row(model_id), options).sse
        assert form is not None, "asked of an upstream that does not serve it"
        return form

    def connect(self, model_id: str, options: Options) -> ConnectForm:
        form = _variant_for(self._row(model_id), options).connect
        assert form is not None, "asked of an upstream that does not serve it"
        return form

    def unmet(self, model_id: str, options: Options) -> list[str]:
        """A name for each thing that ``options`` ask for and the model has no form for."""
        row = self._row(model_id)
        variant = _variant_for(row, options)
        unmet = []
        if options.thinking is not None and options.thinking != variant.thinks:
            without_tools = _variant_for(row, replace(options, offers_tools=False)).thinks
            unavailable = "thinking-off-for-tools" if without_tools else "thinking-unavailable"
            unmet.append(unavailable if options.thinking else "thinking-unavoidable")
        # Also where thinking was asked for, and only the form without a search has it.
        wanted = row.searches if options.search is None else options.search
        if wanted and not variant.searches:
            is_for_tools = options.offers_tools and options.search is None
            unmet.append("search-off-for-tools" if is_for_tools else "search-unavailable")
        if options.offers_tools and variant.own_tools:
            unmet.append("tools-may-be-kimis")
        if options.search is False and (variant.searches or variant.own_tools):
            unmet.append("search-unavoidable")
        return unmet

    def wording(self, model_id: str) -> WordingName:
        """How functions are described to the model."""
        return self._row(model_id).wording

    def _row(self, model_id: str) -> Row:
        """Raises UnknownModel where the catalogue has withdrawn it since the request was routed."""
        row = _TABLE.get(model_id) or self._offered.get(model_id)
        if row is None:
            raise UnknownModel(f"Kimi no longer offers the model '{model_id}'", param="model")
        return row
