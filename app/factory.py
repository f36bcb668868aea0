"""``create_app``: the one place that knows all parts.

Must never know a route's logic, a wire field, or the environment.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from flask import Blueprint, Flask

from app import __version__, logs
from app.accounts.leases import Leases
from app.accounts.management import AccountManager
from app.accounts.pool import Accounts
from app.accounts.registry import Registry
from app.accounts.renewal import RenewalProcess
from app.accounts.scheduling import Limits
from app.answers.attempt import AttemptServices
from app.answers.idempotency import IdempotentAnswers, KeepLimits
from app.answers.json_checker import JsonChecker
from app.answers.plan import Planner
from app.answers.stream import AnswerTimeouts
from app.answers.turn import RetryPolicy, Turns
from app.api import chat_completions, completions, files, health, messages, metrics, models, openapi, responses
from app.attachments import AttachmentLimits, Attachments, Fetcher, FileLimits, Files, Folder, free_bytes_at
from app.concurrency.at_exit import at_exit
from app.concurrency.watchdog import Watchdog
from app.console.mount import ConsoleMount, Services
from app.conversations.chat_cleanup import ChatCleanup
from app.conversations.conversations import ConversationLimits, Conversations
from app.conversations.lost_chats import LostChats
from app.conversations.open_chats import ContinueLimits, OpenChats
from app.doctor.account_trial import AccountTrials
from app.doctor.trial_turn import Generation
from app.gateway import Gateway
from app.ledger.ledger import Ledger, LedgerLimits
from app.ledger.live import ProcessState
from app.notifications.notifier import Notifier, Receiver
from app.settings.config import Config
from app.store import PendingDeletion, Store
from app.store.conversations import Kind
from app.store.process_lease import ProcessLease
from app.text import held_text
from app.upstreams import Tap, Upstream, UpstreamGroup
from app.upstreams.kimi import group as kimi
from app.upstreams.routing import Router
from app.web import conversation_id, cors, middleware
from app.web.api_keys import ApiKeys, owner_of
from app.web.operations import Operation
from app.web.rate_limits import RateLimits
from app.web.request_memory import RequestMemory

log = logging.getLogger(__name__)


class PublicApi(Protocol):
    """A folder or file of ``app.api``."""

    @property
    def blueprint(self) -> Blueprint: ...
    @property
    def OPERATIONS(self) -> Sequence[Operation]: ...


# Settings, the watchdog of the process, and what sees the wire, if anything does.
BuildUpstreams = Callable[[Config, Watchdog, Tap | None], UpstreamGroup]

# The public APIs, in the order of the documentation; each stands behind every prefix of ``web.conversation_id``.
PUBLIC_APIS: Sequence[PublicApi] = (chat_completions, completions, responses, messages, files, models)

_HEALTH: PublicApi = health

# The folders of ``app.upstreams``.
UPSTREAMS: Sequence[BuildUpstreams] = (kimi.build,)


def create_app(
    config: Config,
    public_apis: Sequence[PublicApi] = PUBLIC_APIS,
    upstreams: Sequence[BuildUpstreams] = UPSTREAMS,
    *,
    starts: bool = True,
) -> Flask:
    """The WSGI application. Opens the database; raises StoreUnusable where it cannot. ``starts``: with its background
    work."""
    logs.configure(config.log_level, config.secrets)
    store = Store(config.database_url, config.gateway_secret)
    store.seal()
    # After what others have to say at the end (the process lease). The last to close a SQLite file leaves nothing
    # beside it: who copies that one file then has everything.
    at_exit(store.close)
    ledger = Ledger(store, LedgerLimits(config.request_log_days))
    state = ProcessState(ledger.running, lambda: ledger.last_write_s)
    registry, renewals = build_registry(config, store), RenewalProcess(store)
    accounts = Accounts(registry, store, renewals)
    process_lease = ProcessLease(store, config.lease_s)
    process_lease.describe(state.as_json, lambda: bool(ledger.running))
    ledger.when_begun = (process_lease.stop_resting, state.stop_resting)
    watchdog = Watchdog()
    groups = [build(config, watchdog, None) for build in upstreams]
    router = Router(groups, config.model_aliases)
    gateway = _build_gateway(config, store, accounts, process_lease, watchdog, router)
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = config.max_body_bytes
    app.config["MAX_MESSAGES"] = config.max_messages
    app.config["MAX_TEXT_CHARS"] = config.max_text_chars
    app.config["FILE_MAX_BYTES"] = config.file_max_bytes
    app.config["MAX_JSON_VALUES"] = config.max_json_values
    app.config["HEARTBEAT_S"] = config.heartbeat_s
    app.config["CORS_ORIGINS"] = frozenset(config.cors_origins)
    app.config["STRICT_PARAMS"] = config.strict_params
    app.config["METRICS_KEY"] = config.metrics_key
    app.config["TOOLS"] = config.tools
    app.extensions["gateway"] = gateway
    app.extensions["ledger"] = ledger
    app.extensions["account_manager"] = build_account_manager(config, store, registry, accounts, renewals, router)
    app.extensions["figures"] = metrics.LatestFigures(lambda: gateway.figures(keys.names()))
    app.extensions["api_keys"] = keys = ApiKeys(config.api_keys, store.keys)
    app.extensions["rate_limits"] = rate_limits = RateLimits(store, process_lease, _longest_s(config))
    held_text.MEMORY.total = config.answer_memory_bytes
    app.extensions["request_memory"] = RequestMemory(config.request_memory_bytes, config.queue_wait_s)
    middleware.install(app)
    cors.install(app, config.cors_origins)
    # Never a redirect, which would lose the body of a POST: a doubled slash is an unknown URL, and one at the end has
    # no meaning.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    conversation_id.install(app)
    app.register_blueprint(_HEALTH.blueprint)
    app.register_blueprint(metrics.blueprint)
    for api in public_apis:
        for suffix, prefix in conversation_id.PREFIXES.items():
            name = api.blueprint.name + suffix
            app.register_blueprint(api.blueprint, name=name, url_prefix=prefix or None)
    openapi.install(app, [operation for api in (*public_apis, _HEALTH) for operation in api.OPERATIONS])
    notifier = build_notifier(config, store)
    if config.console:
        services = Services(config, store, gateway, accounts, ledger, app.extensions["account_manager"], notifier)
        app.wsgi_app = ConsoleMount(app.wsgi_app, services)  # type: ignore[method-assign]  # as Flask's documentation says
    if not starts:
        return app
    process_lease.start()
    state.start()
    ledger.start()
    # When the turns have ended, and while the database is open.
    at_exit(ledger.close)
    keys.start()
    rate_limits.start_cleaning()
    accounts.start()
    if notifier is not None:
        notifier.start(accounts)
    gateway.start_background_work()
    for group in groups:
        group.start(store, accounts)
    _log_ready(config, accounts)
    return app


def build_router(config: Config, tap: Tap | None = None) -> Router:
    """The upstreams alone, for the doctor. ``tap`` sees their wire."""
    return Router([build(config, Watchdog(), tap) for build in UPSTREAMS])


def build_registry(config: Config, store: Store, *, settles: bool = True) -> Registry:
    """See ``Registry``. Raises StoreError."""
    return Registry(config.credentials, config.site_of, store, proxy=config.kimi_proxy, settles=settles)


def build_notifier(config: Config, store: Store) -> Notifier | None:
    """None without NOTIFY_URL."""
    if not config.notify_url:
        return None
    receiver = Receiver(config.notify_url, config.notify_form, config.notify_language, config.console_address)
    return Notifier(store, receiver)


def build_account_manager(
    config: Config, store: Store, registry: Registry, accounts: Accounts, renewals: RenewalProcess, router: Router
) -> AccountManager:
    """``accounts`` learn of each change at once."""

    def generations() -> list[Generation]:
        return [Generation(upstream, router.home_models(upstream)) for upstream in router.upstreams.values()]

    trials = AccountTrials(generations, accounts, store, min(60.0, config.first_event_timeout_s))
    return AccountManager(
        registry,
        store,
        renewals,
        trials,
        capacity=config.account_max_streams,
        site_of=config.site_of,
        after_change=accounts.take_over,
    )


def _longest_s(config: Config) -> float:
    """No turn lasts longer; what is held beyond that was lost."""
    return config.total_timeout_s + 60


def _max_ages_s(config: Config) -> dict[Kind, float | None]:
    """How long conversations are kept without a turn: the shortest age of those that hold for a kind."""
    named = config.conversation_max_age_days
    responses = config.responses_max_age_days
    ages: dict[Kind, tuple[float, ...]] = {
        "named": (named,),
        "responses": (named, responses),
        "response": (named, responses, config.uncontinued_responses_max_age_days),
    }
    return {kind: min((days * 86_400 for days in of_kind if days), default=None) for kind, of_kind in ages.items()}


def _log_ready(config: Config, accounts: Accounts) -> None:
    for account in accounts.all.values():
        c = account.credential
        if c.access_token is not None and c.refresh_token is None and c.expires_at is None:
            log.warning("%s: this token does not say when it expires; it is used as it is", account.label)
    sites = ",".join(site.base_url for site in accounts.sites or config.sites)
    log.info("ready version=%s accounts=%d upstream=%s", __version__, len(accounts.all), sites)


def _build_gateway(
    config: Config,
    store: Store,
    accounts: Accounts,
    process_lease: ProcessLease,
    watchdog: Watchdog,
    router: Router,
) -> Gateway:
    timeouts = AnswerTimeouts(
        # Twice per heartbeat, so that a client that left is noticed within one; seldom enough to cost nothing.
        tick_s=min(1.0, config.heartbeat_s / 2, config.idle_timeout_s / 4, config.first_event_timeout_s / 4),
        commit_after_s=config.commit_after_s,
        first_event_s=config.first_event_timeout_s,
        idle_s=config.idle_timeout_s,
        total_s=config.total_timeout_s,
    )
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
            max_count=config.max_conversations,
            max_age_s=_max_ages_s(config),
            keep_transcripts=config.store_transcripts,
        ),
    )
    cleanup = ChatCleanup(
        store,
        list(router.upstreams),
        lambda: accounts.ids,
        lambda row: _delete_chat(row, router.upstreams, accounts),
        keep_s=longest_s,
        run_or_retry=process_lease.run_or_retry,
    )
    open_chats = OpenChats(
        store,
        process_lease,
        cleanup,
        ContinueLimits(config.continue_idle_s, config.continue_max),
        config.continue_chats,
        keeps_chats=config.keep_chats,
    )
    checker = JsonChecker()
    lost_chats = LostChats(
        store,
        router.upstreams,
        lambda: accounts.ids,
        lambda id_: accounts.fresh(accounts.get(id_)),
        cleanup,
        keeps_chats=config.keep_chats,
        run_or_retry=process_lease.run_or_retry,
    )
    process_lease.when_other_dies(lost_chats.search_soon)
    services = AttemptServices(
        router,
        accounts,
        leases,
        cleanup,
        lost_chats,
        checker,
        config.keep_chats,
        config.citations,
        config.limits_thinking,
    )
    policy = RetryPolicy(config.failover_s, config.retry_backoff_s)
    turns = Turns(Planner(router, accounts), services, conversations, store, policy)
    idempotent = IdempotentAnswers(
        store,
        process_lease,
        KeepLimits(config.max_idempotent_answers, config.max_idempotent_bytes),
        commit_after_s=config.commit_after_s,
        tick_s=timeouts.tick_s,
    )
    uploaded = Files(
        store,
        # In a folder of its own: what a database does not know is deleted.
        None if config.files_folder is None else Folder(config.files_folder / store.name),
        FileLimits(
            max_bytes=config.file_max_bytes,
            max_count=config.files_max_count,
            max_total_bytes=config.files_max_total_bytes,
            max_age_s=config.files_max_age_days * 86_400 or None,
        ),
        owner_of,
        lambda: math.inf if config.disk_of_files is None else free_bytes_at(config.disk_of_files),
    )
    fetcher = Fetcher(config.fetch_hosts) if config.fetch_urls else None
    attachments = Attachments(AttachmentLimits(config.file_max_bytes, config.max_attachments), uploaded, fetcher)
    return Gateway(
        turns,
        router,
        accounts,
        conversations,
        open_chats,
        cleanup,
        lost_chats,
        idempotent,
        checker,
        store,
        timeouts,
        watchdog,
        attachments,
        uploaded,
        config.account_max_streams,
    )


def _delete_chat(row: PendingDeletion, upstreams: Mapping[str, Upstream], accounts: Accounts) -> None:
    upstreams[row.upstream].delete_chat(accounts.fresh(accounts.get(row.account_id)), row.chat_id)
