"""What Kimi's sites list as their models, and which forms of requests they have refused: kept in the store.

The lists are fetched in the background; no request waits for them. Without one, our own table holds. Must never know
how a list is fetched.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from app.concurrency.periodic import every
from app.errors import GatewayError
from app.store import Store, StoreError
from app.upstreams.kimi.listing import Listing, encode_listing, parse_listing
from app.upstreams.kimi.model_table import KimiModels

log = logging.getLogger(__name__)

# Where gateways of before there were two sites have kept the entries of a list.
_OLD_LIST = "offers"

_FRESH_S = 6 * 3600.0
# How soon after a failure, and how soon what another worker found is looked for.
_RETRY_S = 600.0
_LOOK_EVERY_S = 60.0


class Catalogue:
    """``fetch`` asks a site, or raises GatewayError. ``models`` learns what it returns, and what was refused."""

    def __init__(
        self, store: Store, models: KimiModels, sites: Callable[[], Sequence[str]], fetch: Callable[[str], Listing]
    ) -> None:
        self._store = store
        self._models = models
        self._sites = sites
        self._fetch = fetch
        # Name of what is kept → since when what is known here.
        self._known_at: dict[str, float] = {}
        self._tried_at: dict[str, float] = {}
        models.on_refusal = self._keep_refusals

    def start(self) -> None:
        """Offers what the store has, and starts the thread that keeps it fresh."""
        old = Listing()
        if (kept := self._newer(_OLD_LIST)) is not None:
            old = parse_listing({"availableModels": kept})
        for site in self._sites() if old.offers else ():
            self._models.learn(site, old)
        self.load()
        every(_LOOK_EVERY_S, self._refresh, "catalogue")

    def load(self) -> None:
        """Learns what is in the store."""
        for site in self._sites():
            if (kept := self._newer(_list_of(site))) is not None:
                self._models.learn(site, parse_listing(kept))
            if isinstance(kept := self._newer(_refusals_of(site)), dict):
                self._models.learn_refusals(
                    site, {way: at for way, at in kept.items() if isinstance(at, int | float)}
                )

    def learn(self, site: str, listing: Listing) -> None:
        """A site has just answered: the list is kept, and counts from now on. Raises StoreError."""
        self._keep(_list_of(site), encode_listing(listing))
        self._models.learn(site, listing)

    def _refresh(self) -> None:
        self.load()
        now = self._store.database.now()
        for site in self._sites():
            known_at = self._known_at.get(_list_of(site), 0.0)
            if now - known_at > _FRESH_S and now - self._tried_at.get(site, 0.0) > _RETRY_S:
                self._tried_at[site] = now
                try:
                    self.learn(site, self._fetch(site))
                except GatewayError as e:
                    log.info("catalogue_not_fetched site=%s error=%s", site, e.message)

    def _keep_refusals(self, site: str, refused: Mapping[str, float]) -> None:
        """Called in the middle of a turn, once per refused form and day."""
        log.warning("form_replaced site=%s forms=%r", site, sorted(refused))
        try:
            self._keep(_refusals_of(site), dict(refused))
        except StoreError:
            log.exception("refusal_not_kept site=%s", site)

    def _keep(self, name: str, value: Mapping[str, Any]) -> None:
        now = self._store.database.now()
        self._store.facts.put(name, orjson.dumps(value).decode(), now)
        self._known_at[name] = now

    def _newer(self, name: str) -> Any:
        """What is kept under a name, if it is newer than what is known here; else None."""
        kept = self._store.facts.get(name)
        if kept is None or kept[1] <= self._known_at.get(name, 0.0):
            return None
        try:
            value = orjson.loads(kept[0])
        except orjson.JSONDecodeError:
            # Asked for anew, which replaces it.
            log.warning("catalogue_unreadable name=%s bytes=%d", name, len(kept[0]))
            return None
        self._known_at[name] = kept[1]
        return value


def _list_of(site: str) -> str:
    return f"models@{site}"


def _refusals_of(site: str) -> str:
    return f"refused-forms@{site}"
