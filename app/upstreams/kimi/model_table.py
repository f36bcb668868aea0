"""What each model id means on the wire: one table, and Kimi's own catalogue, which decides where it is known.

Source: ``kimi-protocol.md`` 3.2, 5.2, 6 and 12 (L1, L2, L10); ``kimi-protocol-2.md`` 5.1, which wins. An id is looked
up, never taken apart. Must never know how a request is sent or what an answer looks like.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.chat import Effort, Model, Options
from app.errors import UnknownModel
from app.text.tools.describing import WordingName
from app.upstreams.kimi.listing import Context, Listing, Offer

# Names of the upstreams, as they stand in the store.
SSE = "kimi_rest"
CONNECT = "kimi_connect"

# How long a form that a site has refused is tried last there. Seconds.
REFUSED_FOR_S = 86_400.0


@dataclass(frozen=True, slots=True)
class SseForm:
    """Generation 1. The server takes kimi, k1, k1.5, k2, k1.5-thinking and answers 422 to all else (L1)."""

    model: str
    use_search: bool


@dataclass(frozen=True, slots=True)
class ConnectForm:
    """Generation 2: what a request says. ``options`` go out as they stand here. ``way``: what of it a site may
    refuse, by which it is remembered."""

    scenario: str
    options: Mapping[str, Any]
    search: bool
    kimiplus_id: str = ""
    agent_mode: str = ""
    # `options.system_prompt` may be sent (kimi-protocol-2.md 5.4).
    system_prompt: bool = False
    # It is another model that answers.
    replaced: bool = False
    way: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """A way in which generation 2 is asked for a model, whatever the turn wants of it.

    ``efforts``: those that may be chosen, in Kimi's words, lowest first. Without them ``instant`` and ``thinking``
    are the whole options of a turn that does not think and of one that does.
    """

    scenario: str
    model: str = ""
    kimiplus_id: str = ""
    agent_mode: str = ""
    efforts: tuple[str, ...] = ()
    default_effort: str = ""
    context: str = ""
    instant: Mapping[str, Any] = field(default_factory=dict)
    thinking: Mapping[str, Any] = field(default_factory=dict)
    replaced: bool = False
    # Instructions go into `options.system_prompt`, apart from the text. Off where it is not certain that the site
    # takes it: an option that it does not know would be dropped without a word.
    system_prompt: bool = False

    @property
    def name(self) -> str:
        """Short, and without anything private."""
        return " ".join(filter(None, (self.scenario, self.model, self.agent_mode.removeprefix("TYPE_"))))

    @property
    def can_be_silent(self) -> bool:
        """Whether there is a form that does not think."""
        return not self.efforts or "NONE" in self.efforts

    def form(self, thinks: bool | None, effort: Effort | None, *, search: bool) -> ConnectForm:
        """``thinks``: None as the model does by itself. ``effort`` chooses how much, where a form thinks."""
        if self.efforts:
            # The site itself always sends true, and switching it off was seen to degrade the model (5.1).
            chosen = _choose_effort(self.efforts, self.default_effort, thinks, effort)
            options = {"thinking": True, "enable_plugin": False, "reasoning_effort": f"REASONING_EFFORT_{chosen}"}
        else:
            options = dict(self.thinking if thinks else self.instant)
        if self.model:
            options["model"] = self.model
        if self.context:
            options["context_length"] = self.context
        return ConnectForm(
            self.scenario,
            options,
            search,
            self.kimiplus_id,
            self.agent_mode,
            system_prompt=self.system_prompt,
            replaced=self.replaced,
            way=self.name,
        )


# Efforts from nothing to the most, as Kimi calls them, and which of them the efforts of clients mean.
_RANKS = {name: rank for rank, name in enumerate(("NONE", "LOW", "MEDIUM", "HIGH", "MAX"))}
_WISHES: dict[Effort, int] = {"none": 0, "minimal": 0, "low": 1, "medium": 2, "high": 3, "xhigh": 4, "max": 4}


def _choose_effort(offered: Sequence[str], default: str, thinks: bool | None, effort: Effort | None) -> str:
    """The effort among ``offered`` that comes nearest to what is wanted; of two, the model's own or the lower one."""
    if thinks is False:
        return offered[0]
    if thinks:
        offered = [name for name in offered if name != "NONE"] or offered
    if effort is not None:
        return min(offered, key=lambda name: (abs(_RANKS[name] - _WISHES[effort]), name != default, _RANKS[name]))
    return default if default in offered else offered[0]


# Until July 2026 `thinking` was the switch; since then the site always sends true and the effort decides (5.2).
# Both are sent, so that a server of either time understands. LOW is the effort of the one whole request with
# thinking that was published (T8).
_INSTANT = {"thinking": False, "enable_plugin": False, "reasoning_effort": "REASONING_EFFORT_NONE"}
_THINKING = {"thinking": True, "enable_plugin": False, "reasoning_effort": "REASONING_EFFORT_LOW"}

# K2.6, as kimi.ai lists it since August 2026 (C1), and as www.kimi.com took it in August and September 2026: with the
# scenario of K2.5 (C2A). Before, the scenario was all there was; `k2.5` and `k2.6` are the same request.
_CHAT = Way("SCENARIO_CHAT", "k2d6-chat", efforts=("NONE", "LOW"), default_effort="LOW")
_CHAT_AT_COM = replace(_CHAT, scenario="SCENARIO_K2D5")
_K2D5 = Way("SCENARIO_K2D5", instant=_INSTANT, thinking=_THINKING)

# The whole of what clients of the K2 era sent (T7). No site of today was seen to offer K2: K2.6 then answers, and a
# notice says so.
_K2 = Way("SCENARIO_K2", instant={"thinking": False}, thinking={"thinking": False})

# K3 is an agent since August 2026 (C1, C2A). L10, X16 [single-source, 2026-07]: scenarios of its own.
_K3 = Way(
    "SCENARIO_OK_COMPUTER",
    "k3-agent",
    "ok-computer",
    "TYPE_NORMAL",
    efforts=("LOW", "HIGH", "MAX"),
    default_effort="HIGH",
)
_K3_OF_JULY = Way("SCENARIO_K3", instant={"thinking": False, "enable_plugin": False})
_K3_THINKING_OF_JULY = Way("SCENARIO_K3_THINKING", thinking={"thinking": True, "enable_plugin": False})


@dataclass(frozen=True, slots=True)
class Row:
    """One id. ``home`` is the generation that serves it as long as the site has it. Rows of one ``family`` are one
    model in several forms: one that thinks aloud or not, one that searches the web or not. ``own_tools``: what it
    searches is Kimi's choice.

    Generation 2: ``names`` are the catalogue's names (``id`` or ``key``) for the same thing, which is asked for as
    the catalogue says. ``ways`` hold where it says nothing, newest first.
    """

    id: str
    title: str
    home: str
    sse: SseForm | None = None
    ways: tuple[Way, ...] = ()
    search: bool = False
    names: frozenset[str] = frozenset()
    family: str = ""
    # None: as the model does by itself.
    thinks: bool | None = False
    own_tools: bool = False
    # How the client's functions are described to it. Reports differ by model (kimi-protocol-2.md 4.2).
    wording: WordingName = "example"

    @property
    def searches(self) -> bool:
        return self.sse.use_search if self.sse else self.search

    def is_served_by(self, upstream: str) -> bool:
        return bool(self.sse if upstream == SSE else self.ways)


def _chat_rows(id_: str, title: str, family: str) -> Iterator[Row]:
    """K2.5 and K2.6: which of them answers is Kimi's choice."""
    for thinks in (False, True):
        for search in (True, False):
            yield Row(
                id_ + ("-thinking" if thinks else "") + ("" if search else "-nosearch"),
                title + (", thinking" if thinks else "") + ("" if search else ", without web search"),
                CONNECT,
                ways=(_CHAT, _CHAT_AT_COM, _K2D5),
                search=search,
                names=frozenset({"k2d6-chat", "k2d6", "k2d6-thinking"}),
                family=family,
                thinks=thinks,
            )


_ROWS = (
    # K2 is served by both generations: SSE `model: "k2"` (multi-source), Connect SCENARIO_K2 (multi-source).
    *(
        Row(
            "k2" if search else "k2-nosearch",
            "Kimi K2" if search else "Kimi K2, without web search",
            SSE,
            SseForm("k2", search),
            ways=(_K2, replace(_CHAT, replaced=True), replace(_CHAT_AT_COM, replaced=True)),
            search=search,
            family="k2",
        )
        for search in (True, False)
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
    *_chat_rows("kimi-k2.5", "Kimi K2.5", "k2.5"),
    *_chat_rows("kimi-k2.6", "Kimi K2.6", "k2.6"),
    # The server attaches tools of its own, so a -nosearch form could not keep its word. Its lowest effort is the one
    # without the ending.
    Row(
        "kimi-k3",
        "Kimi K3",
        CONNECT,
        ways=(_K3, _K3_OF_JULY),
        names=frozenset({"k3-agent", "k3"}),
        family="k3",
        own_tools=True,
    ),
    Row(
        "kimi-k3-thinking",
        "Kimi K3, thinking",
        CONNECT,
        ways=(_K3, _K3_THINKING_OF_JULY),
        names=frozenset({"k3-agent", "k3"}),
        family="k3",
        thinks=True,
        own_tools=True,
    ),
)
_TABLE = {row.id: row for row in _ROWS}
# The catalogue's names of the chat models, which the table has under names of its own. Agents are offered under both.
_CHAT_NAMES = frozenset(name for row in _ROWS if not row.own_tools for name in row.names)
# family → thinks, searches → the row of that form
_FORMS = {(row.family, row.thinks, row.searches): row for row in _ROWS if row.family}

_REFUSES_TOOLS_WHEN_THINKING = ("k2.5", "k2.6")


def _way_of(offer: Offer, context: str = "") -> Way:
    """How the catalogue says that a model is asked for. Before August 2026 an entry had no ``id``, and the scenario
    was all that counted, but for agents."""
    model = offer.id or (offer.key if offer.kimiplus_id else "")
    return Way(
        offer.scenario,
        model,
        offer.kimiplus_id,
        offer.agent_mode,
        efforts=offer.efforts,
        default_effort=offer.default_effort,
        context=context or offer.default_context,
        instant=_INSTANT,
        thinking=_THINKING,
        # Entries have ids since August 2026, and clients of that time send it.
        system_prompt=bool(offer.id),
    )


def _rows_of(offer: Offer) -> Iterator[Row]:
    """An offer under its own name, and once more for each longer context that is available."""
    id_ = offer.id or offer.key
    longer = [Context("", "")] + [c for c in offer.contexts if c.available and c.name != offer.default_context]
    for context in longer:
        way = _way_of(offer, context.name)
        yield Row(
            f"{id_}-{context.suffix}" if context.name else id_,
            f"{offer.title}, {context.title}" if context.name else offer.title,
            CONNECT,
            # An entry of the old form that the table does not know was always asked for by its key.
            ways=(way if way.model else replace(way, model=offer.key),),
            # Agents bring their own tools.
            search=not offer.kimiplus_id,
            thinks=None if offer.efforts else offer.thinking,
            own_tools=bool(offer.kimiplus_id),
        )


def _variant_for(row: Row, options: Options) -> Row:
    """The row of the same family that thinks and searches as asked; what it does not have is left as it is,
    thinking being looked at first."""
    if not row.family:
        # One that only the catalogue knows.
        search = False if options.offers_tools and options.search is None else options.search
        if row.ways and not row.own_tools and search is not None:
            row = replace(row, search=search)
        if row.ways and row.ways[0].efforts and options.thinking is not None:
            row = replace(row, thinks=options.thinking)
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
    """The models of both protocols, with what the catalogue of each site says. Shared by the upstreams and by all
    threads."""

    # The names of the upstreams that KIMI_PROTOCOL leaves switched on.
    switched_on: Sequence[str]
    # Called with a site and its refused ways when that has changed here.
    on_refusal: Callable[[str, Mapping[str, float]], None] = lambda _site, _refused: None
    # Site → what it lists.
    _listings: dict[str, Listing] = field(default_factory=dict)
    # id → its row at each site that offers it.
    _offered: dict[str, dict[str, Row]] = field(default_factory=dict)
    # Site → name of a way that it has refused → when (Unix seconds).
    _refused: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def learn(self, site: str, listing: Listing) -> None:
        """What a site lists now, instead of what it has listed before."""
        self._listings[site] = listing
        offered: dict[str, dict[str, Row]] = {}
        for at, listed in self._listings.items():
            rows = (row for offer in listed.offers if not offer.names & _CHAT_NAMES for row in _rows_of(offer))
            for row in rows:
                if row.id not in _TABLE:
                    offered.setdefault(row.id, {})[at] = row
        self._offered = offered

    def learn_refusals(self, site: str, refused: Mapping[str, float]) -> None:
        """What others have found out about a site."""
        self._refused[site] = {**self._refused.get(site, {}), **refused}

    def refuse(self, site: str, form: ConnectForm) -> None:
        """A site has refused a form and has taken another one of the same model: the other one comes first now."""
        self._refused[site] = {**self._refused.get(site, {}), form.way: time.time()}
        self.on_refusal(site, self._refused[site])

    def of(self, upstream: str) -> list[Model]:
        """Those that this upstream can serve."""
        rows = [*_ROWS, *(next(iter(at.values())) for at in self._offered.values())]
        return [Model(row.id, row.title) for row in rows if row.is_served_by(upstream)]

    def sites(self, model_id: str) -> frozenset[str] | None:
        """The sites that offer a model; None: any may."""
        return None if model_id in _TABLE else frozenset(self._offered.get(model_id, ()))

    def rank(self, model_id: str, upstream: str) -> int | None:
        """0: the upstream is the model's home. None: it does not serve the model."""
        row = self._find(model_id)
        if row is None or not row.is_served_by(upstream):
            return None
        return 0 if row.home == upstream else 1

    @property
    def disabled(self) -> list[str]:
        """Ids of models that only an upstream which is switched off could serve."""
        return [row.id for row in _ROWS if not any(row.is_served_by(name) for name in self.switched_on)]

    def sse(self, model_id: str, options: Options) -> SseForm:
        form = _variant_for(self._row(model_id), options).sse
        assert form is not None, "asked of an upstream that does not serve it"
        return form

    def connect(self, model_id: str, options: Options, site: str) -> list[ConnectForm]:
        """The forms of the turn at a site, the one to begin with first. At least one."""
        row = _variant_for(self._row(model_id, site), options)
        ways = self._ways(row, site)
        assert ways, "asked of an upstream that does not serve it"
        since, refused = time.time() - REFUSED_FOR_S, self._refused.get(site, {})
        ways.sort(key=lambda way: refused.get(way.name, 0.0) > since)
        return [way.form(row.thinks, options.effort, search=row.search) for way in ways]

    def unmet(self, model_id: str, options: Options) -> list[str]:
        """A name for each thing that ``options`` ask for and the model has no form for."""
        row = self._row(model_id)
        variant = _variant_for(row, options)
        unmet = []
        if options.thinking is True and variant.thinks is False:
            without_tools = _variant_for(row, replace(options, offers_tools=False)).thinks
            unmet.append("thinking-off-for-tools" if without_tools else "thinking-unavailable")
        if options.thinking is False and (variant.thinks or not self._can_be_silent(variant)):
            unmet.append("thinking-unavoidable")
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

    def _can_be_silent(self, row: Row) -> bool:
        ways = self._ways(row, next(iter(self._listings), ""))
        return not ways or ways[0].can_be_silent

    def _ways(self, row: Row, site: str) -> list[Way]:
        """What the catalogue of the site says, then what the table says, first what fits that catalogue's time."""
        listing = self._listings.get(site)
        listed = [_way_of(offer) for offer in listing.offers if offer.names & row.names] if listing else []
        ways = list(row.ways)
        if site == "kimi.com" or site.endswith(".kimi.com"):
            ways.sort(key=lambda way: way.scenario == _CHAT.scenario)
        if listing is not None and listing.is_old:
            ways.sort(key=lambda way: bool(way.efforts))
        found: dict[str, Way] = {}
        for way in (*listed, *ways):
            found.setdefault(way.name, way)
        return list(found.values())

    def _find(self, model_id: str, site: str | None = None) -> Row | None:
        row = _TABLE.get(model_id)
        if row is not None:
            return row
        at = self._offered.get(model_id, {})
        return at.get(site) if site is not None else next(iter(at.values()), None)

    def _row(self, model_id: str, site: str | None = None) -> Row:
        """Raises UnknownModel where the catalogue has withdrawn it since the request was routed."""
        row = self._find(model_id, site)
        if row is None:
            raise UnknownModel(f"Kimi no longer offers the model '{model_id}'", param="model")
        return row
