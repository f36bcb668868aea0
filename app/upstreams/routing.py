"""Which of the upstreams serves a model now. Must never know how an upstream speaks."""

import logging
import time
from collections.abc import Mapping, Sequence

from app.errors import ConversationLost, GenerationGone, InvalidRequest
from app.upstreams import Upstream
from app.upstreams.kimi.model_table import Models

log = logging.getLogger(__name__)

# How long an upstream that turned out to be gone is tried last. Kept in the process, not in the store: finding
# out costs a worker one short call, and remembering costs the path of every request nothing.
_GONE_S = 600.0


class Routes:
    """The upstreams that are switched on, and which of them turned out to be gone."""

    def __init__(self, upstreams: Sequence[Upstream], models: Models) -> None:
        self._upstreams: Mapping[str, Upstream] = {upstream.name: upstream for upstream in upstreams}
        self._models = models
        # Until when (monotonic) an upstream counts as gone.
        self._gone: dict[str, float] = {}

    def for_model(self, model_id: str) -> list[Upstream]:
        """Who may serve the model, in order: those that turned out to be gone come last. At least one."""
        now = time.monotonic()
        names = self._models.served_by(model_id)
        return [self._upstreams[name] for name in sorted(names, key=lambda name: self._gone.get(name, 0.0) > now)]

    def for_chat(self, upstream: str, model_id: str, opened_with: str) -> list[Upstream]:
        """Who may go on with a chat: the one that opened it. Raises ConversationLost, InvalidRequest."""
        if upstream not in self._upstreams:
            raise ConversationLost(
                f"this conversation was opened over {upstream}, which KIMI_PROTOCOL leaves out; "
                "change KIMI_PROTOCOL, or start a new conversation"
            )
        if upstream not in self._models.served_by(model_id):
            raise InvalidRequest(
                f"the model '{model_id}' is not served by {upstream}, where this conversation was opened; "
                f"go on with '{opened_with}', or start a new conversation",
                code="model_not_in_conversation",
                param="model",
            )
        return [self._upstreams[upstream]]

    def is_there(self, upstream: Upstream) -> None:
        if self._gone:
            self._gone.pop(upstream.name, None)

    def is_gone(self, upstream: Upstream, error: GenerationGone) -> None:
        self._gone[upstream.name] = time.monotonic() + _GONE_S
        log.warning(
            "%s is not served here, so models that another protocol serves too go there first for %.0f s: %s",
            upstream.name,
            _GONE_S,
            error.message,
        )
