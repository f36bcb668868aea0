"""``create_app``: the one place that knows all parts.

Must never know a route's logic, a wire field, or the environment.
"""

import atexit
import logging
from collections.abc import Mapping

from flask import Flask

from app import logs
from app.accounts.leases import Leases
from app.accounts.pool import Accounts
from app.accounts.renewal import renew_in_a_process
from app.accounts.scheduling import Limits
from app.answers.idempotency import Recordings
from app.answers.stream import Patience
from app.answers.turn import Persistence, Turns
from app.api import chat_completions, completions, health, messages, models, openapi, responses
from app.concurrency.watchdog import Watchdog
from app.conversations.chat_cleanup import ChatCleanup
from app.conversations.conversations import ConversationLimits, Conversations
from app.doctor.trial_turn import Generation
from app.errors import AccountRejected, GatewayError
from app.gateway import Gateway
from app.settings.config import Config
from app.store import PendingDeletion, Store
from app.store.process_lease import ProcessLease
from app.upstreams import Upstream
from app.upstreams.catalogue import Catalogue
from app.upstreams.kimi.connect import KimiConnect
from app.upstreams.kimi.http import KimiHttp, Tap, Timeouts
from app.upstreams.kimi.model_table import Models, Offer
from app.upstreams.kimi.rest import KimiRest
from app.upstreams.routing import Routes
from app.web import conversation_id, cors, middleware
from app.web.api_keys import ApiKeys
from app.web.rate_limits import Allowances

log = logging.getLogger(__name__)

# What stands behind every prefix of ``web.conversation_id``, in the order of the documentation.
_PUBLIC = (chat_completions, completions, responses, messages, models)

# KIMI_PROTOCOL → the upstreams that are switched on.
_PROTOCOLS = {
    "auto": (KimiRest.name, KimiConnect.name),
    "sse": (KimiRest.name,),
    "connect": (KimiConnect.name,),
}


def create_app(config: Config) -> Flask:
    """The WSGI application. Opens the database; raises StoreUnusable where it cannot."""
    logs.configure(config.log_level, config.secrets)
    store = Store(config.database_url, config.gateway_secret)
    store.tokens.seal()
    # After what others have to say at the end (process_lease). The last to close a SQLite file leaves nothing beside
    # it: who copies that one file then has everything.
    atexit.register(store.close)
    accounts = Accounts(config.credentials, store, renew_in_a_process)
    process_lease = ProcessLease(store, config.lease_s)
    process_lease.start()
    gateway, catalogue = build_gateway(config, store, accounts, process_lease)
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = config.max_body_bytes
    app.config["HEARTBEAT_S"] = config.heartbeat_s
    app.config["CORS_ORIGINS"] = frozenset(config.cors_origins)
    app.config["STRICT_PARAMS"] = config.strict_params
    app.extensions["gateway"] = gateway
    app.extensions["api_keys"] = ApiKeys([key.secret for key in config.api_keys], store.keys.all)
    app.extensions["allowances"] = Allowances(store, process_lease, _longest_s(config))
    middleware.install(app)
    cors.install(app, config.cors_origins)
    # Never a redirect, which would lose the body of a POST: a doubled slash is an unknown URL, one at the end is
    # nothing.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    conversation_id.install(app)
    app.register_blueprint(health.blueprint)
    for module in _PUBLIC:
        for suffix, prefix in conversation_id.PREFIXES.items():
            name = module.blueprint.name + suffix
            app.register_blueprint(module.blueprint, name=name, url_prefix=prefix or None)
    openapi.install(app, [operation for module in (*_PUBLIC, health) for operation in module.OPERATIONS])
    accounts.keep_fresh()
    gateway.tidy()
    if catalogue is not None:
        catalogue.start()
    _say_ready(config)
    return app


def _longest_s(config: Config) -> float:
    """No turn lasts longer; what is held beyond that was lost."""
    return config.total_timeout_s + 60


def _say_ready(config: Config) -> None:
    for credential in config.credentials:
        if credential.refresh_token is None and credential.expires_at is None:
            log.warning("%s: this token does not say when it expires; it is used as it is", credential.label)
    log.info("ready: %d accounts at %s", len(config.credentials), config.kimi_base_url)


def build_gateway(
    config: Config, store: Store, accounts: Accounts, process_lease: ProcessLease
) -> tuple[Gateway, Catalogue | None]:
    """The gateway with its upstreams, over a store; and Kimi's catalogue, where the protocol has one."""
    patience = Patience(
        # Twice a heartbeat, so that a client that left is noticed within one; seldom enough to cost nothing.
        tick_s=min(1.0, config.heartbeat_s / 2, config.idle_timeout_s / 4, config.first_event_timeout_s / 4),
        commit_after_s=config.commit_after_s,
        first_event_s=config.first_event_timeout_s,
        idle_s=config.idle_timeout_s,
        total_s=config.total_timeout_s,
    )
    models = Models(switched_on=_PROTOCOLS[config.kimi_protocol])
    watchdog = Watchdog()
    upstreams = build_upstreams(config, build_http(config, watchdog=watchdog), models)
    routes = Routes(upstreams, models)
    longest_s = _longest_s(config)
    leases = Leases(
        store,
        process_lease,
        Limits(config.account_max_streams, config.account_min_interval_s),
        max_waiting=config.queue_max,
        wait_s=config.queue_wait_s,
        longest_s=longest_s,
    )
    conversations = Conversations(
        store,
        process_lease,
        ConversationLimits(
            wait_s=config.conversation_wait_s,
            longest_s=longest_s,
            most=config.max_conversations,
            max_age_s=config.conversation_max_age_days * 86_400 or None,
            keep_transcripts=config.store_transcripts,
        ),
    )
    by_name: dict[str, Upstream] = {upstream.name: upstream for upstream in upstreams}
    litter = ChatCleanup(
        store, list(by_name), accounts.ids, lambda row: _delete_chat(row, by_name, accounts), keep_s=longest_s
    )
    persistence = Persistence(config.failover_s, config.retry_backoff_s, config.keep_chats)
    turns = Turns(routes, accounts, leases, conversations, litter, store, persistence, config.citations)
    recordings = Recordings(store, process_lease, commit_after_s=config.commit_after_s, tick_s=patience.tick_s)
    gateway = Gateway(turns, models, accounts, conversations, litter, recordings, store, patience, watchdog)
    connect = next((upstream for upstream in upstreams if isinstance(upstream, KimiConnect)), None)
    if connect is None:
        return gateway, None
    return gateway, Catalogue(store, models, lambda: _ask_for_offers(connect, accounts))


def build_upstreams(config: Config, http: KimiHttp, models: Models) -> list[Upstream]:
    """Those of the two generations that KIMI_PROTOCOL leaves switched on."""
    both: list[Upstream] = [
        KimiRest(http, models, max_continuations=config.max_continuations),
        KimiConnect(http, models),
    ]
    return [upstream for upstream in both if upstream.name in models.switched_on]


def build_generations(config: Config, http: KimiHttp) -> list[Generation]:
    """The upstreams for the doctor, each with its models."""
    models = Models(switched_on=_PROTOCOLS[config.kimi_protocol])
    return [Generation(upstream, models.at_home(upstream.name)) for upstream in build_upstreams(config, http, models)]


def build_http(config: Config, tap: Tap | None = None, watchdog: Watchdog | None = None) -> KimiHttp:
    return KimiHttp(
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


def _delete_chat(row: PendingDeletion, upstreams: Mapping[str, Upstream], accounts: Accounts) -> None:
    upstreams[row.upstream].delete_chat(accounts.fresh(accounts.get(row.account_id)), row.chat_id)


def _ask_for_offers(connect: KimiConnect, accounts: Accounts) -> tuple[Offer, ...]:
    """Through any account that can be used, without taking its turn away. Raises GatewayError."""
    error: GatewayError = AccountRejected("no usable Kimi account")
    for account_id in accounts.ids:
        try:
            return connect.offers(accounts.fresh(accounts.get(account_id)))
        except GatewayError as e:
            error = e
            if e.blame != "account":
                break
    raise error
