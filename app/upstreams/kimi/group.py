"""Kimi's two protocols, assembled: they share connections, models, and the catalogue. Knows the settings for them."""

from collections.abc import Sequence

from app.concurrency.watchdog import Watchdog
from app.errors import AccountRejected, GatewayError
from app.settings.config import Config
from app.store import Store
from app.upstreams import AccountSource, Tap, Upstream, UpstreamGroup
from app.upstreams.kimi.catalogue import Catalogue
from app.upstreams.kimi.connect import KimiConnect
from app.upstreams.kimi.http import KimiHttp, Timeouts
from app.upstreams.kimi.model_table import KimiModels, Offer
from app.upstreams.kimi.rest import KimiRest

# KIMI_PROTOCOL → the upstreams that are switched on.
_SWITCHED_ON = {
    "auto": (KimiRest.name, KimiConnect.name),
    "sse": (KimiRest.name,),
    "connect": (KimiConnect.name,),
}


def build(config: Config, watchdog: Watchdog, tap: Tap | None) -> UpstreamGroup:
    """The protocols that KIMI_PROTOCOL leaves switched on. ``tap`` sees their wire."""
    http = KimiHttp(
        config.kimi_base_url,
        Timeouts(
            connect_s=config.connect_timeout_s,
            call_s=min(30.0, config.first_event_timeout_s),
            # The gateway's own limits come first; this one only ends a reader that was forgotten.
            read_s=max(config.first_event_timeout_s, config.idle_timeout_s) + 30,
        ),
        tap,
        watchdog,
    )
    models = KimiModels(switched_on=_SWITCHED_ON[config.kimi_protocol])
    connect = KimiConnect(http, models)
    both: list[Upstream] = [KimiRest(http, models, max_continuations=config.max_continuations), connect]

    def start(store: Store, accounts: AccountSource) -> None:
        if connect.name in models.switched_on:
            Catalogue(store, models, lambda: _offers(connect, accounts)).start()

    return UpstreamGroup(
        [upstream for upstream in both if upstream.name in models.switched_on],
        dict.fromkeys(models.disabled, "is switched off by KIMI_PROTOCOL"),
        start,
    )


def _offers(connect: KimiConnect, accounts: AccountSource) -> Sequence[Offer]:
    """The catalogue, asked for with any account, without taking its turn. Raises GatewayError."""
    error: GatewayError = AccountRejected("no usable Kimi account")
    for account in accounts():
        try:
            return connect.offers(account)
        except GatewayError as e:
            error = e
            if e.blame != "account":
                break
    raise error
