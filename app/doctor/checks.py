"""The checks, in an order in which each can rely on those before it. What cannot be checked is reported as skipped.

Changes nothing that the gateway itself would not change: it may create the database, renew a token that is due, and
open one chat per protocol, which it deletes. Must never know how findings are shown.
"""

import itertools
import logging
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from app.accounts.pool import Accounts
from app.accounts.registry import DeclaredAccount, Registry, account_of
from app.accounts.renewal import RenewalProcess
from app.accounts.standings import ENDING, OUT_OF_USE, UNUSABLE, Language, Standing, standing_of
from app.doctor import sites
from app.doctor.findings import Finding, Line, Mark, Privacy, database_name, database_path
from app.doctor.sites import Probe
from app.doctor.tool_trials import TRIALS, model_for_agents, run_trials
from app.doctor.trial_turn import Generation, Outcome, take_turn
from app.doctor.wire_transcript import Recorder
from app.doctor.wording import Advice, Said, Span, State, Value, say
from app.errors import (
    AccountForbidden,
    AccountLimited,
    AccountRejected,
    AnswerEmpty,
    GatewayError,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from app.notifications.notifier import last_outcome
from app.settings.config import Examination
from app.settings.credentials import Credential, describe_level
from app.settings.sites import Site, is_at
from app.store import Store, StoreError, StoreUnusable, TokenRow
from app.upstreams.account import Account, when
from app.upstreams.kimi.http import KimiHttp, Timeouts
from app.upstreams.kimi.listing import Listing
from app.upstreams.kimi.quota import Quotas

log = logging.getLogger(__name__)

# Expiry is decided by this machine's clock, and a token may live for 900 s. Seconds.
_SKEW_S = 30.0
# How many unrecognised frames are shown.
_SHOWN_KINDS = 20
# A trial turn that takes longer has failed. Seconds.
_TURN_S = 60.0

_OTHER_SITE = {"kimi.ai": "kimi.com", "kimi.com": "kimi.ai"}

# The sentences on what to do about a turn that failed, beyond what the error says itself.
_ADVICE: list[tuple[type[UpstreamError], str]] = [
    (AccountRejected, "new_login"),
    (AccountForbidden, "answer_bot_check"),
    (AccountLimited, "use_less"),
    (UpstreamOverloaded, "not_here"),
    (UpstreamTimeout, "slow_network"),
    (UpstreamProtocolError, "new_protocol"),
    (AnswerEmpty, "may_be_limited"),
    (UpstreamError, "see_site"),
]


@runtime_checkable
class _Catalogued(Protocol):
    """An upstream with a catalogue of models at Kimi."""

    def listing(self, account: Account) -> Listing: ...
    def learn(self, site: str, listing: Listing) -> None: ...


@runtime_checkable
class _Metered(Protocol):
    """An upstream that says what is left of an account's credits."""

    def subscription(self, account: Account) -> object: ...


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """``upstreams`` makes the upstreams, with a recorder that sees their wire, or None. Called once. ``language``: of
    the findings."""

    upstreams: Callable[[Recorder | None], Sequence[Generation]]
    refresh: bool = False
    recorder: Recorder | None = None
    tools: bool = False
    language: Language = "en"


class Doctor:
    """One examination. ``findings`` are given as they are made."""

    def __init__(self, settings: Examination, privacy: Privacy, options: DoctorOptions) -> None:
        self._settings = settings
        self._config = settings.config
        self._wrong = settings.wrong
        self._privacy = privacy
        self._options = options
        # Those of the settings, and from the check of the store on all.
        self._declared: Sequence[DeclaredAccount] = [
            DeclaredAccount(c, settings.config.site_of(c), settings.config.kimi_proxy)
            for c in privacy.credentials(settings.config.credentials)
        ]
        self._store: Store | None = None
        self._accounts: Accounts | None = None
        # Site → what it answered.
        self._probes: dict[str, Probe] = {}
        self._usable: list[Account] = []

    def findings(self) -> Iterator[Line]:
        try:
            for check, findings in (
                ("settings", self._check_settings),
                ("store", self._check_store),
                ("keys", self._check_keys),
                ("messages", self._check_messages),
                ("account", self._check_accounts),
                ("site", self._check_sites),
                ("refresh", self._check_refresh),
                ("turn", self._check_turns),
                ("tools", self._check_tools),
                ("unknown", self._check_unrecognised),
            ):
                for finding in _guarded(check, findings()):
                    yield self._privacy.line(finding, self._options.language)
        finally:
            if self._store is not None:
                self._store.close()

    # settings

    def _check_settings(self) -> Iterator[Finding]:
        for problem in self._wrong.values():
            yield Finding("problem", "settings", say("wrong_setting", problem=problem), say("correct_setting"))
        for name in self._settings.unknown:
            yield Finding("warning", "settings", say("unknown_setting", name=name), say("is_it_misspelt"))
        for site, (name, other) in itertools.product(self._sites, _OTHER_SITE.items()):
            if is_at(site.base_url, name) and is_at(site.auth_url, other):
                yield Finding(
                    "warning",
                    "settings",
                    say("auth_of_other_site", site=name, other=other),
                    say("mend_auth_url", site=name),
                )
        if not self._wrong:
            accounts = len(self._declared)
            found = say("settings_are_right", number=accounts, host=self._config.host, port=self._config.port)
            yield Finding("ok", "settings", found)

    # store

    def _check_store(self) -> Iterator[Finding]:
        if {"DATABASE_URL", "GATEWAY_SECRET"} & set(self._wrong):
            yield Finding("skipped", "store", say("store_settings_wrong"))
            return
        path, name = database_path(self._config), database_name(self._config)
        try:
            store = Store(self._config.database_url, self._config.gateway_secret)
        except StoreUnusable as e:
            yield Finding("problem", "store", say("store_unusable", error=str(e)), _store_advice(path, str(e)))
            return
        try:
            store.check_writable()
            self._learn_accounts(store)
        except StoreError as e:
            store.close()
            found = say("store_unwritable", name=name, error=str(e))
            yield Finding("problem", "store", found, _store_advice(path))
            return
        self._store = store
        tokens = say("tokens_sealed" if store.tokens.sealed else "tokens_readable")
        yield Finding("ok", "store", say("store_is_right", name=name, version=store.version, tokens=tokens))
        if path is not None:
            yield from self._check_file(path)

    def _learn_accounts(self, store: Store) -> None:
        """Raises StoreError."""
        credentials = [account.credential for account in self._declared]
        registry = Registry(
            credentials,
            self._config.site_of,
            store,
            proxy=self._config.kimi_proxy,
            label_of=self._privacy.label,
        )
        self._privacy.learn([a.credential for a in registry.accounts.values()])
        self._accounts = Accounts(registry, store, RenewalProcess(store))
        self._declared = list(registry.accounts.values())

    def _check_file(self, path: Path) -> Iterator[Finding]:
        status = path.stat()
        if stat.S_IMODE(status.st_mode) & 0o077:
            found = say("file_mode", path=str(path), mode=f"{stat.S_IMODE(status.st_mode):04o}")
            yield Finding("warning", "store", found, say("change_mode", path=str(path)))
        if status.st_uid != os.getuid():
            yield Finding("warning", "store", say("file_owner", path=str(path)), say("run_as_gateway"))

    # our own keys

    def _check_keys(self) -> Iterator[Finding]:
        if "GATEWAY_API_KEYS" in self._wrong:
            yield Finding("skipped", "keys", say("setting_is_wrong", name="GATEWAY_API_KEYS"))
            return
        if self._store is None:
            yield Finding("skipped", "keys", say("needs_store"))
            return
        added, now = self._store.keys.all(), self._store.database.now()
        good = [row for row in added if row.revoked_at is None and (row.expires_at is None or row.expires_at > now)]
        count = len(self._config.api_keys) + len(good)
        if count:
            yield Finding("ok", "keys", say("takes_keys", number=count))
        elif added:
            # A key that was ever added counts: revoking the last one does not open the gateway.
            yield Finding("problem", "keys", say("takes_none"), say("add_key"))
        else:
            yield Finding("ok", "keys", say("takes_any"))

    # messages to the owner

    def _check_messages(self) -> Iterator[Finding]:
        if {"NOTIFY_URL", "NOTIFY_FORM"} & set(self._wrong):
            yield Finding("skipped", "messages", say("messages_wrong"))
        elif not self._config.notify_url:
            yield Finding("ok", "messages", say("messages_off"))
        elif self._store is None:
            yield Finding("skipped", "messages", say("needs_store"))
        else:
            last = last_outcome(self._store)
            if last is None:
                yield Finding("ok", "messages", say("messages_none"), say("test_messages"))
            elif last.code:
                found = say("message_failed", at=when(last.at), reason=last.reason(self._options.language))
                yield Finding("warning", "messages", found, say("correct_notify_url"))
            else:
                yield Finding("ok", "messages", say("message_taken", at=when(last.at)))

    # accounts

    def _check_accounts(self) -> Iterator[Finding]:
        if "KIMI_TOKENS" in self._wrong:
            yield Finding("skipped", "account", say("setting_is_wrong", name="KIMI_TOKENS"))
        elif not self._declared:
            yield Finding("problem", "account", say("no_account"), say("add_account"))
        for account in self._declared:
            yield self._describe_account(account, self._row(account.credential))

    def _row(self, c: Credential) -> TokenRow | None:
        return self._store.tokens.find(c.id) if self._store is not None and c.refresh_token else None

    def _describe_account(self, account: DeclaredAccount, row: TokenRow | None) -> Finding:
        c = account.credential
        hint = self._privacy.hint(c)
        level = describe_level((row.access_token if row else c.access_token) or c.refresh_token)
        if account.paused_at is not None:
            standing = Standing("paused", account.id, account.label, since=account.paused_at)
        else:
            standing = standing_of(c, row)
        mark: Mark = (
            "problem"
            if standing.kind in UNUSABLE
            else "warning"
            if standing.kind in OUT_OF_USE | ENDING or standing.said
            else "ok"
        )
        if level:
            found = say("account_of_level", name=hint, level=level, state=State(standing))
        else:
            found = say("account_is", name=hint, state=State(standing))
        return Finding(mark, "account", found, Advice(standing))

    # sites and the clock

    def _check_sites(self) -> Iterator[Finding]:
        probes = []
        for site, proxy in itertools.chain.from_iterable(map(self._ways, self._sites)):
            for check, setting, url, call in (
                ("site", "KIMI_BASE_URL", site.base_url, sites.SITE_CALL),
                ("auth", "KIMI_AUTH_URL", site.auth_url, sites.AUTH_CALL),
            ):
                if setting in self._wrong:
                    yield Finding("skipped", check, say("setting_is_wrong", name=setting))
                    continue
                http = KimiHttp(url, Timeouts(self._config.connect_timeout_s, 15.0, 15.0), proxy=proxy)
                probe = sites.probe(http, call)
                http.close()
                probes.append(probe)
                found = sites.describe(check, setting, http, probe, "ok" if check == "site" else "warning")
                if check == "site":
                    self._probes.setdefault(site.name, probe)
                    if probe.reply is not None:
                        self._probes[site.name] = probe
                elif found.mark == "problem" and not self._is_refreshed_at(site):
                    # It is not needed: no account of it has a refresh token.
                    found = Finding("warning", found.check, found.found, found.advice)
                yield found
        yield from self._check_clock([p.ahead_s for p in probes if p.ahead_s is not None])

    def _ways(self, site: Site) -> list[tuple[Site, str]]:
        """The site with each proxy that its accounts use."""
        proxies = [account.proxy for account in self._declared if account.site == site]
        return [(site, proxy) for proxy in dict.fromkeys(proxies or [self._config.kimi_proxy])]

    def _is_refreshed_at(self, site: Site) -> bool:
        return any(account.is_renewable for account in self._declared if account.site == site)

    @property
    def _sites(self) -> Sequence[Site]:
        """Of all accounts, each once; without any, the one that the settings name."""
        found = {account.site.name: account.site for account in self._declared}
        return tuple(found.values()) or self._config.sites

    def _check_clock(self, ahead: list[float]) -> Iterator[Finding]:
        if not ahead:
            yield Finding("skipped", "clock", say("no_time"))
        elif abs(ahead[0]) > _SKEW_S:
            found = say("clock_behind" if ahead[0] > 0 else "clock_ahead", seconds=abs(ahead[0]))
            yield Finding("warning", "clock", found, say("set_clock"))
        else:
            yield Finding("ok", "clock", say("clock_is_right", seconds=max(1.0, abs(ahead[0]))))

    # refresh

    def _check_refresh(self) -> Iterator[Finding]:
        for account in self._declared:
            if account.is_renewable and account.paused_at is None:
                yield self._refresh(account.credential)
        self._usable = list(self._find_usable())

    def _refresh(self, c: Credential) -> Finding:
        row = self._row(c)
        if self._accounts is None or row is None:
            # Without the store the rotated token would be lost.
            return Finding("skipped", "refresh", say("renewal_needs_store", label=c.label))
        if self._wrong:
            return Finding("skipped", "refresh", say("renewal_needs_settings", label=c.label))
        if row.revoked:
            return Finding("skipped", "refresh", say("renewal_refused_before", label=c.label))
        due = row.access_token is None or (row.expires_at is not None and row.expires_at <= time.time() + 1)
        if not due and not self._options.refresh:
            if row.expires_at is None:
                return Finding("ok", "refresh", say("not_due", label=c.label))
            return Finding("ok", "refresh", say("not_due_until", label=c.label, at=when(row.expires_at)))
        try:
            account = self._accounts.get(c.id)
            account = self._accounts.fresh(account) if due else self._accounts.after_rejection(account)
        except AccountRejected as e:
            return Finding("problem", "refresh", say("renewal_failed", error=e))
        except UpstreamError as e:
            return Finding("problem", "refresh", say("renewal_failed", error=e), say("see_auth"))
        token = _access(account.expires_at, time.time())
        return Finding("ok", "refresh", say("renewed", label=c.label, token=token))

    def _find_usable(self) -> Iterator[Account]:
        """The accounts whose token works now, as the gateway would use them."""
        if self._accounts is not None:
            self._accounts.reload()
        for declared in self._declared:
            c = declared.credential
            if self._accounts is not None:
                try:
                    account = self._accounts.get(c.id)
                except GatewayError:
                    continue
            else:
                account = account_of(c, declared.site, declared.proxy)
            if account.token and not account.has_expired():
                yield account

    # turns

    def _check_turns(self) -> Iterator[Finding]:
        for site in self._sites:
            yield from self._check_turns_at(site)

    def _check_turns_at(self, site: Site) -> Iterator[Finding]:
        recorder = self._options.recorder
        generations = self._options.upstreams(recorder)
        accounts = [account for account in self._usable if account.site == site.name]
        reason = self._why_no_turn(site, accounts)
        if reason is not None:
            for generation in generations:
                yield Finding("skipped", "turn", say("turn_not_tried", name=self._name(generation, site), why=reason))
            return
        account = accounts[0]
        for generation in generations:
            yield self._check_models(generation, site, account)
        for generation in generations:
            if isinstance(generation.upstream, _Metered):
                yield from self._check_quotas(generation.upstream, accounts)
        limit_s = min(_TURN_S, self._config.first_event_timeout_s)
        outcomes = []
        for generation in generations:
            if recorder is not None:
                recorder.begin()
            outcome = take_turn(generation, account, self._accounts, self._store, limit_s)
            if recorder is not None:
                recorder.end(generation.upstream.name, generation.models[0].id, outcome)
            outcomes.append(outcome)
        some_answered = any(outcome.content for outcome in outcomes)
        for generation, outcome in zip(generations, outcomes, strict=True):
            yield from self._describe_turn(generation, site, account, outcome, some_answered)

    def _check_tools(self) -> Iterator[Finding]:
        if not self._options.tools:
            return
        for site in self._sites:
            accounts = [account for account in self._usable if account.site == site.name]
            reason = self._why_no_turn(site, accounts)
            if reason is not None or self._store is None:
                yield Finding("skipped", "tools", say("not_tried", why=reason or say("it_needs_the_store")))
                continue
            for generation in self._options.upstreams(None):
                yield from self._try_tools(generation, site, accounts[0], self._store)

    def _try_tools(self, generation: Generation, site: Site, account: Account, store: Store) -> Iterator[Finding]:
        model = model_for_agents(generation)
        name: dict[str, Value] = {"name": self._name(generation, site), "model": model.id}
        yield Finding("ok", "tools", say("trials_follow", **name, number=len(TRIALS)))
        tried, right, odd = 0, 0, Counter[str]()
        limit_s = min(_TURN_S, self._config.first_event_timeout_s)
        for result in run_trials(generation, model, account, self._accounts, store, limit_s):
            tried += 1
            right += not result.wrong
            odd.update(kind for kind in result.outcome.unrecognised if kind.startswith("tools:"))
            found = say("trial", **name, about=say(result.trial.about), result=result.wrong or say("right"))
            yield Finding("warning" if result.wrong else "ok", "tools", found)
        counted = "".join(f"; {kind} ({times})" for kind, times in sorted(odd.items()))
        mark: Mark = "ok" if right == len(TRIALS) else "warning"
        advice = None if mark == "ok" else say("see_tools_page")
        yield Finding(mark, "tools", say("trials_done", **name, right=right, tried=tried, odd=counted), advice)

    def _why_no_turn(self, site: Site, accounts: Sequence[Account]) -> Said | None:
        if "KIMI_BASE_URL" in self._wrong:
            return say("base_url_wrong")
        if site.name not in self._probes or self._probes[site.name].reply is None:
            return say("site_unreachable")
        if not accounts:
            return say("no_working_token")
        return None

    def _name(self, generation: Generation, site: Site) -> str | Said:
        """The protocol, and the site where there are several."""
        protocol = generation.upstream.name
        return say("protocol_at", protocol=protocol, site=site.name) if len(self._sites) > 1 else protocol

    def _check_models(self, generation: Generation, site: Site, account: Account) -> Finding:
        name, ids = self._name(generation, site), [model.id for model in generation.models]
        if isinstance(generation.upstream, _Catalogued):
            try:
                listing = generation.upstream.listing(account)
            except UpstreamError as e:
                found = say("models_without_list", name=name, ids=ids, error=e)
                return Finding("warning", "models", found, say("models_served_anyway"))
            generation.upstream.learn(site.name, listing)
            offered = [offer.id or offer.key for offer in listing.offers]
            count = len(listing.offers)
            found = say("models_of_kimi", name=name, ids=ids, number=count, offered=offered or say("none"))
            return Finding("ok", "models", found)
        return Finding("ok", "models", say("models", name=name, ids=ids))

    def _check_quotas(self, upstream: _Metered, accounts: Sequence[Account]) -> Iterator[Finding]:
        quotas = Quotas(self._store, upstream.subscription)
        for account in accounts:
            try:
                quota = quotas.of(account)
            except UpstreamError as e:
                yield Finding("skipped", "quota", say("quota_fails", label=account.label, error=e))
                continue
            if quota is None:
                yield Finding("skipped", "quota", say("quota_not_told", label=account.label))
            elif quota.is_spent:
                found = say("quota_spent", label=account.label, quota=quota)
                yield Finding("warning", "quota", found, say("wait_for_credits"))
            else:
                yield Finding("ok", "quota", say("quota", label=account.label, quota=quota))

    def _describe_turn(
        self, generation: Generation, site: Site, account: Account, outcome: Outcome, some_answered: bool
    ) -> Iterator[Finding]:
        turn: dict[str, Value] = {"name": self._name(generation, site), "model": generation.models[0].id}
        renewed = "_renewed" if outcome.renewed else ""
        # If another protocol answers, its models can be used, and this one is no problem.
        failed: Mark = "warning" if some_answered else "problem"
        if outcome.error is not None:
            advice = next((say(key) for kind, key in _ADVICE if isinstance(outcome.error, kind)), None)
            if isinstance(outcome.error, AccountRejected):
                advice = self._advice_on_site(account) or advice
            yield Finding(failed, "turn", say(f"turn_failed{renewed}", **turn, error=outcome.error), advice)
        elif not outcome.content:
            yield Finding(failed, "turn", say(f"turn_empty{renewed}", **turn), say("may_be_limited"))
        else:
            times: dict[str, Value] = {"first_s": outcome.first_s or 0, "total_s": outcome.total_s}
            yield Finding("ok", "turn", say(f"turn_answered{renewed}", **turn, **times))
        if outcome.undeleted is not None:
            found = say("chat_remains", name=turn["name"], error=outcome.undeleted)
            yield Finding("warning", "turn", found, say("chat_remains_advice"))
        if self._store is not None:
            for kind in sorted(outcome.unrecognised):
                self._store.unrecognised.count(generation.upstream.name, kind, time.time())

    def _advice_on_site(self, account: Account) -> Said | None:
        """What to do if a token may be used at the wrong site; None if there is no sign of that."""
        declared = next((one for one in self._declared if one.id == account.id), None)
        home = None if declared is None else declared.credential.home
        if declared is None or home is None or is_at(declared.site.base_url, home.name):
            return None
        return say("token_of_other_site", site=home.name)

    # what was not understood

    def _check_unrecognised(self) -> Iterator[Finding]:
        if self._store is None:
            yield Finding("skipped", "unknown", say("needs_store"))
            return
        rows = self._store.unrecognised.all()[:_SHOWN_KINDS]
        for row in rows:
            values: dict[str, Value] = {"upstream": row.upstream, "times": row.times, "at": when(row.last_seen_at)}
            if row.refused_form:
                found = say("refused_form", **values, form=row.refused_form)
                yield Finding("warning", "unknown", found, say("form_is_remembered"))
            else:
                found = say("unknown_kind", **values, kind=row.kind)
                yield Finding("warning", "unknown", found, say("protocol_changed"))
        if not rows:
            yield Finding("ok", "unknown", say("all_is_known"))


def _guarded(check: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """A check that raises does not end the others."""
    try:
        yield from findings
    except StoreError as e:
        yield Finding("problem", check, say("database_fails", error=str(e)), say("see_database_log"))
    except Exception as e:  # a fault of ours or of an upstream: the log has the traceback
        log.exception("doctor_check_failed check=%s", check)
        yield Finding("problem", check, say("doctor_failed", error=type(e).__name__), say("report_this"))


def _store_advice(path: Path | None, message: str = "") -> Said:
    if "GATEWAY_SECRET" in message:
        return say("store_secret")
    return say("store_server" if path is None else "store_folder")


def _access(expires_at: float | None, now: float) -> Said:
    """What a new access token says of itself."""
    if expires_at is None:
        return say("token_timeless")
    if expires_at <= now:
        return say("token_expired", at=when(expires_at))
    return say("token_works", at=when(expires_at), left=Span(expires_at - now))
