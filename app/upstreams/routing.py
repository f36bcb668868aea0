"""Which upstream serves which model now. Must never know how an upstream speaks."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from app.chat import ChatRequest, FileReference, Message, Model, Options, TextPart
from app.errors import ConversationLost, InvalidRequest, ProtocolUnavailable, UnknownModel
from app.settings.model_aliases import ModelAlias, ModelAliases
from app.upstreams import Supports, Upstream, UpstreamGroup

log = logging.getLogger(__name__)

# How long an upstream whose protocol is not served is tried last. Kept in the process and not in the store: finding
# it out costs a worker one short call, and looking it up would cost every request one.
_UNAVAILABLE_S = 600.0


class Router:
    """The upstreams of this process, their models, and which of them turned out to be unavailable."""

    def __init__(self, groups: Sequence[UpstreamGroup], aliases: Sequence[ModelAlias] = ()) -> None:
        self.upstreams: Mapping[str, Upstream] = {u.name: u for group in groups for u in group.upstreams}
        self._disabled_models = {id_: why for group in groups for id_, why in group.disabled_models.items()}
        self._aliases = ModelAliases(aliases)
        # Upstream, site → until when (monotonic) it counts as unavailable there.
        self._unavailable: dict[tuple[str, str], float] = {}

    @property
    def models(self) -> list[Model]:
        """All models, each once."""
        return list({model.id: model for u in self.upstreams.values() for model in u.models()}.values())

    @property
    def listed_models(self) -> list[Model]:
        """All models, and the exact other names of those that there are."""
        by_id = {model.id: model for model in self.models}
        named = {name: Model(name, by_id[id_].title) for name, id_ in self._aliases.exact.items() if id_ in by_id}
        return list({**by_id, **named}.values())

    def model(self, model_id: str) -> Model:
        """Also by another name. Raises UnknownModel, with the ids that exist."""
        real = self.resolve(model_id)
        found = next((model for model in self.models if model.id == real), None)
        if found is None:
            raise self._unknown(real)
        return replace(found, id=model_id)

    def resolve(self, name: str) -> str:
        """The id of the model that a name stands for; the name itself if it is no other name."""
        exact = self._aliases.of_name(name)
        if exact is not None:
            return exact
        if any(upstream.rank(name) is not None for upstream in self.upstreams.values()):
            return name
        return self._aliases.of_pattern(name) or name

    def check(self, request: ChatRequest) -> None:
        """Raises UnknownModel, and InvalidRequest for content that no upstream of the model takes."""
        able = self._able(request.model)
        for message in request.messages:
            _check_parts(message, [upstream.supports for upstream in able])

    def unmet(self, model_id: str, options: Options) -> list[str]:
        """Names for what ``options`` ask for and the model has no form for; it is left out."""
        return self._able(model_id)[0].unmet(model_id, options)

    def home_models(self, upstream: Upstream) -> list[Model]:
        """The models that this upstream is the first choice for; where there is none, all that it can serve."""
        models = upstream.models()
        return [model for model in models if upstream.rank(model.id) == 0] or list(models)

    def for_model(self, model_id: str) -> list[Upstream]:
        """Who may serve the model, best first, and last who is unavailable somewhere. At least one. Raises
        UnknownModel."""
        able = self._able(model_id)
        if len(able) > 1 and self._unavailable:
            now = time.monotonic()
            away = {name for (name, _), until in list(self._unavailable.items()) if until > now}
            able.sort(key=lambda upstream: upstream.name in away)
        return able

    def for_site(self, upstreams: Sequence[Upstream], model_id: str, site: str) -> list[Upstream]:
        """Those of ``upstreams`` that may serve the model with an account of a site, unavailable ones last."""
        able = [u for u in upstreams if (sites := u.sites(model_id)) is None or site in sites]
        if len(able) > 1 and self._unavailable:
            now = time.monotonic()
            able.sort(key=lambda u: (self._unavailable.get((u.name, site), 0.0) > now, u.rank(model_id) or 0))
        return able

    def sites(self, upstreams: Sequence[Upstream], model_id: str) -> frozenset[str] | None:
        """The sites of the accounts with which one of ``upstreams`` can serve the model; None: of all accounts."""
        found: set[str] = set()
        for upstream in upstreams:
            sites = upstream.sites(model_id)
            if sites is None:
                return None
            found.update(sites)
        return frozenset(found)

    def for_chat(self, upstream: str, model_id: str, opened_with: str) -> list[Upstream]:
        """Who may continue a chat: the upstream that opened it, with the model ``opened_with``.

        Raises ConversationLost where that upstream is switched off, InvalidRequest where it does not serve the model.
        """
        found = self.upstreams.get(upstream)
        if found is None:
            raise ConversationLost(
                f"this conversation was opened over {upstream}, which KIMI_PROTOCOL leaves out; "
                "change KIMI_PROTOCOL, or start a new conversation"
            )
        if found.rank(model_id) is None:
            raise InvalidRequest(
                f"the model '{model_id}' is not served by {upstream}, where this conversation was opened; "
                f"continue with '{opened_with}', or start a new conversation",
                code="model_not_in_conversation",
                param="model",
            )
        return [found]

    def mark_available(self, upstream: Upstream, site: str) -> None:
        if self._unavailable:
            self._unavailable.pop((upstream.name, site), None)

    def mark_unavailable(self, upstream: Upstream, site: str, error: ProtocolUnavailable) -> None:
        self._unavailable[upstream.name, site] = time.monotonic() + _UNAVAILABLE_S
        log.warning(
            "upstream_unavailable upstream=%s site=%s tried_last_for_s=%.0f error=%s",
            upstream.name,
            site,
            _UNAVAILABLE_S,
            error.message,
        )

    def _able(self, model_id: str) -> list[Upstream]:
        ranked = [(rank, u) for u in self.upstreams.values() if (rank := u.rank(model_id)) is not None]
        if not ranked:
            raise self._unknown(model_id)
        ranked.sort(key=lambda pair: pair[0])
        return [upstream for _, upstream in ranked]

    def _unknown(self, model_id: str) -> UnknownModel:
        why = self._disabled_models.get(model_id, "does not exist")
        if model_id in self._aliases.targets:
            why = f"is named by MODEL_ALIASES and {why}"
        known = ", ".join(model.id for model in self.models)
        return UnknownModel(f"The model '{model_id}' {why} (model_not_found). Models: {known}", param="model")


def _check_parts(message: Message, able: Sequence[Supports]) -> None:
    """The one place where content is refused that cannot be served. Raises InvalidRequest."""
    if message.role in ("tool", "function"):
        # The result of a call says in words what it cannot show: agents cannot choose what their functions return.
        return
    for part in message.parts:
        match part:
            case TextPart():
                continue
            case FileReference(is_image=True):
                taken = any(supports.images for supports in able)
            case FileReference():
                taken = any(supports.files for supports in able)
            case _:
                taken = False
        if not taken:
            raise InvalidRequest(
                f"{part.place}: content of type '{part.sent_as}' is not supported: this model takes "
                f"text{_also(able)}",
                code="unsupported_content",
                param=part.place,
            )


def _also(able: Sequence[Supports]) -> str:
    """What upstreams take beside text, in words."""
    words = [word for word in ("images", "files") if any(getattr(supports, word) for supports in able)]
    return "".join(f", {word}" for word in words) if words else " only"
