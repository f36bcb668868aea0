"""Kimi's two protocols, assembled: they share connections, models, and the catalogue. Knows the settings for them."""

import contextlib
from dataclasses import replace

from app.concurrency.watchdog import Watchdog
from app.errors import AccountRejected
from app.settings.config import Config
from app.settings.sites import Site
from app.store import Store
from app.upstreams import AccountSource, Tap, Upstream, UpstreamGroup
from app.upstreams.account import NOBODY
from app.upstreams.kimi.catalogue import Catalogue
from app.upstreams.kimi.clients import KimiClients
from app.upstreams.kimi.connect import KimiConnect
from app.upstreams.kimi.connect_resume import ResumePolicy
from app.upstreams.kimi.http import KimiHttp, Timeouts
from app.upstreams.kimi.listing import Listing
from app.upstreams.kimi.model_table import KimiModels
from app.upstreams.kimi.rest import KimiRest
from app.upstreams.kimi.uploads import Uploads

# KIMI_PROTOCOL → the upstreams that are switched on.
_SWITCHED_ON = {
    "auto": (KimiRest.name, KimiConnect.name),
    "sse": (KimiRest.name,),
    "connect": (KimiConnect.name,),
}


def build(config: Config, watchdog: Watchdog, tap: Tap | None) -> UpstreamGroup:
    """The protocols that KIMI_PROTOCOL leaves switched on. ``tap`` sees their wire."""
    timeouts = Timeouts(
        connect_s=config.connect_timeout_s,
        call_s=min(30.0, config.first_event_timeout_s),
        # The gateway's own limits come first; this one only ends a reader that was forgotten.
        read_s=max(config.first_event_timeout_s, config.idle_timeout_s) + 30,
    )
    clients = KimiClients(config.sites, lambda url, proxy: KimiHttp(url, timeouts, tap, watchdog, proxy=proxy))
    models = KimiModels(switched_on=_SWITCHED_ON[config.kimi_protocol])
    # A silent stream is given up while there is still time to get the rest of its answer.
    silence_s = 0.75 * min(config.first_event_timeout_s, config.idle_timeout_s)
    policy = ResumePolicy(limit_s=config.resume_s, silence_s=silence_s)
    uploads = Uploads(config.file_read_s)
    long_bytes = config.long_prompt_as_file
    connect = KimiConnect(clients, models, policy, uploads, long_bytes)
    rest = KimiRest(
        clients, models, uploads, max_continuations=config.max_continuations, long_prompt_bytes=long_bytes
    )
    both: list[Upstream] = [rest, connect]

    def start(store: Store, accounts: AccountSource) -> None:
        uploads.start(store)
        # All that there were, so that one whose last account was just removed is still found.
        known: dict[str, Site] = {}

        def sites() -> list[str]:
            now = {site.name: site for site in accounts.sites or config.sites}
            known.update(now)
            return list(now)

        if connect.name in models.switched_on:
            Catalogue(store, models, sites, lambda name: _listing(connect, accounts, known[name])).start()

    return UpstreamGroup(
        [upstream for upstream in both if upstream.name in models.switched_on],
        dict.fromkeys(models.disabled, "is switched off by KIMI_PROTOCOL"),
        start,
    )


def _listing(connect: KimiConnect, accounts: AccountSource, site: Site) -> Listing:
    """What a site lists for any account of it, without taking its turn; else for nobody in particular, because the
    list is public (``kimi-protocol-2.md`` 5.1). Raises GatewayError."""
    for account in accounts.usable_accounts():
        if account.site == site.name:
            with contextlib.suppress(AccountRejected):
                return connect.listing(account)
    return connect.listing(replace(NOBODY, site=site.name, base_url=site.base_url, proxy=accounts.proxy))
