"""Kimi's own list of models: fetched in the background, kept in the store, added to our table.

No request waits for it. Without it only the models are missing that our table does not know. Must never know how it
is fetched.
"""

import logging
from collections.abc import Callable, Sequence

import orjson

from app.concurrency.periodic import every
from app.errors import GatewayError
from app.store import Store
from app.upstreams.kimi.model_table import KimiModels, Offer, encode_offers, parse_offers

log = logging.getLogger(__name__)

_NAME = "offers"
_FRESH_S = 6 * 3600.0
# How soon after a failure, and how soon what another worker found is looked for.
_RETRY_S = 600.0
_LOOK_EVERY_S = 60.0


class Catalogue:
    """``fetch`` asks Kimi, or raises GatewayError. ``models`` learns what it returns."""

    def __init__(self, store: Store, models: KimiModels, fetch: Callable[[], Sequence[Offer]]) -> None:
        self._store = store
        self._models = models
        self._fetch = fetch
        self._known_at = 0.0
        self._tried_at = 0.0

    def start(self) -> None:
        """Offers what the store has, and starts the thread that keeps it fresh."""
        self._load()
        every(_LOOK_EVERY_S, self._refresh, "catalogue")

    def _refresh(self) -> None:
        self._load()
        now = self._store.database.now()
        if now - self._known_at > _FRESH_S and now - self._tried_at > _RETRY_S:
            self._tried_at = now
            try:
                self._ask(now)
            except GatewayError as e:
                log.info("catalogue_not_fetched error=%s", e.message)

    def _ask(self, now: float) -> None:
        offers = self._fetch()
        self._store.facts.put(_NAME, orjson.dumps(encode_offers(offers)).decode(), now)
        self._learn(offers, now)

    def _load(self) -> None:
        kept = self._store.facts.get(_NAME)
        if kept is None or kept[1] <= self._known_at:
            return
        try:
            entries = orjson.loads(kept[0])
        except orjson.JSONDecodeError:
            # Asked for anew, which replaces it.
            log.warning("catalogue_unreadable bytes=%d", len(kept[0]))
            return
        self._learn(parse_offers(entries), kept[1])

    def _learn(self, offers: Sequence[Offer], known_at: float) -> None:
        self._known_at = known_at
        self._models.learn(offers)
