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
from app.accounts.standings import ENDING, NEW_LOGIN, OUT_OF_USE, UNUSABLE, Standing, advice, standing_of, state
from app.doctor import sites
from app.doctor.findings import Finding, Mark, Privacy, database_name, database_path
from app.doctor.sites import Probe
from app.doctor.tool_trials import TRIALS, model_for_agents, run_trials
from app.doctor.trial_turn import Generation, Outcome, take_turn
from app.doctor.wire_transcript import Recorder
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
from app.upstreams.account import Account, duration, when
from app.upstreams.kimi.connect import REFUSED_FORM
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

# What to do about a turn that failed, beyond what the error says itself.
_ADVICE: list[tuple[type[UpstreamError], str]] = [
    (AccountRejected, NEW_LOGIN),
    (
        AccountForbidden,
        "open the site in a browser with this account and do what it asks; against a bot wall, try another network",
    ),
    (AccountLimited, "wait some minutes and let fewer programs use this account, or add another account"),
    (UpstreamOverloaded, "nothing is wrong on this side: try again later"),
    (UpstreamTimeout, "try again; if it stays so, the network loses packets or Kimi is overloaded"),
    (
        UpstreamProtocolError,
        "a bot wall, or Kimi has changed its protocol: update the gateway, or open an issue with --json and --record",
    ),
    (AnswerEmpty, "the account may be limited: try later, or with another account"),
    (UpstreamError, "see the line on the site; if that is ok, update the gateway or open an issue with --json"),
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
    """``upstreams`` makes the upstreams, with a recorder that sees their wire, or None. Called once."""

    upstreams: Callable[[Recorder | None], Sequence[Generation]]
    refresh: bool = False
    recorder: Recorder | None = None
    tools: bool = False


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

    def findings(self) -> Iterator[Finding]:
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
                    yield self._privacy.clean(finding)
        finally:
            if self._store is not None:
                self._store.close()

    # settings

    def _check_settings(self) -> Iterator[Finding]:
        for sentence in self._wrong.values():
            yield Finding("problem", "settings", sentence, "correct it in .env or in the environment")
        for name in self._settings.unknown:
            yield Finding("warning", "settings", f"{name} is set, but there is no such setting", "is it misspelt?")
        for site, (name, other) in itertools.product(self._sites, _OTHER_SITE.items()):
            if is_at(site.base_url, name) and is_at(site.auth_url, other):
                yield Finding(
                    "warning",
                    "settings",
                    f"accounts of {name} are used, but KIMI_AUTH_URL is on {other}",
                    f"unset KIMI_AUTH_URL, or set KIMI_AUTH_URL=https://auth.{name}",
                )
        if not self._wrong:
            accounts = len(self._declared)
            found = f"{accounts} account(s) in KIMI_TOKENS; listens on {self._config.host}:{self._config.port}"
            yield Finding("ok", "settings", found)

    # store

    def _check_store(self) -> Iterator[Finding]:
        if {"DATABASE_URL", "GATEWAY_SECRET"} & set(self._wrong):
            yield Finding("skipped", "store", "not checked: its settings are wrong")
            return
        path, name = database_path(self._config), database_name(self._config)
        try:
            store = Store(self._config.database_url, self._config.gateway_secret)
        except StoreUnusable as e:
            yield Finding("problem", "store", str(e), _store_advice(path, str(e)))
            return
        try:
            store.check_writable()
            self._learn_accounts(store)
        except StoreError as e:
            store.close()
            found = f"{name} cannot be written ({e})"
            yield Finding("problem", "store", found, _store_advice(path))
            return
        self._store = store
        sealed = (
            "tokens encrypted with GATEWAY_SECRET"
            if store.tokens.sealed
            else "tokens not encrypted (GATEWAY_SECRET unset)"
        )
        yield Finding("ok", "store", f"{name}: opens, can be written, version {store.version}, {sealed}")
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
            found = f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: other users of this machine may use it"
            yield Finding("warning", "store", found, f"chmod 600 {path}")
        if status.st_uid != os.getuid():
            yield Finding(
                "warning",
                "store",
                f"{path} belongs to another user than the one who runs the doctor",
                "run the doctor as the user that the gateway runs as",
            )

    # our own keys

    def _check_keys(self) -> Iterator[Finding]:
        if "GATEWAY_API_KEYS" in self._wrong:
            yield Finding("skipped", "keys", "not checked: GATEWAY_API_KEYS is wrong")
            return
        if self._store is None:
            yield Finding("skipped", "keys", "not checked: it needs the store")
            return
        added, now = self._store.keys.all(), self._store.database.now()
        good = [row for row in added if row.revoked_at is None and (row.expires_at is None or row.expires_at > now)]
        count = len(self._config.api_keys) + len(good)
        if count:
            yield Finding("ok", "keys", f"takes {count} API key(s)")
        elif added:
            # A key that was ever added counts: revoking the last one does not open the gateway.
            found = "takes no request: every key was revoked or has expired"
            yield Finding("problem", "keys", found, "flask --app wsgi keys add NAME")
        else:
            yield Finding(
                "ok", "keys", "takes any API key, from this machine only; behind a proxy set GATEWAY_API_KEYS"
            )

    # messages to the owner

    def _check_messages(self) -> Iterator[Finding]:
        if {"NOTIFY_URL", "NOTIFY_FORM"} & set(self._wrong):
            yield Finding("skipped", "messages", "not checked: their settings are wrong")
        elif not self._config.notify_url:
            yield Finding("ok", "messages", "none are sent: NOTIFY_URL is not set")
        elif self._store is None:
            yield Finding("skipped", "messages", "not checked: it needs the store")
        else:
            last = last_outcome(self._store)
            if last is None:
                yield Finding("ok", "messages", "none was sent yet", "flask --app wsgi notify-test")
            elif last.code:
                found = f"the last one failed at {when(last.at)}: {last.reason('en')}"
                yield Finding("warning", "messages", found, "correct NOTIFY_URL, then: flask --app wsgi notify-test")
            else:
                yield Finding("ok", "messages", f"the last one was taken at {when(last.at)}")

    # accounts

    def _check_accounts(self) -> Iterator[Finding]:
        if "KIMI_TOKENS" in self._wrong:
            yield Finding("skipped", "account", "not checked: KIMI_TOKENS is wrong")
        elif not self._declared:
            advice = "flask --app wsgi accounts add, or set KIMI_TOKENS and restart (README, 'Get a token')"
            yield Finding("problem", "account", "there is no Kimi account yet", advice)
        for account in self._declared:
            yield self._describe_account(account, self._row(account.credential))

    def _row(self, c: Credential) -> TokenRow | None:
        return self._store.tokens.find(c.id) if self._store is not None and c.refresh_token else None

    def _describe_account(self, account: DeclaredAccount, row: TokenRow | None) -> Finding:
        c = account.credential
        hint = self._privacy.hint(c)
        if level := describe_level((row.access_token if row else c.access_token) or c.refresh_token):
            hint += f", {level}"
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
        return Finding(mark, "account", f"{hint}: {state(standing)}", advice(standing))

    # sites and the clock

    def _check_sites(self) -> Iterator[Finding]:
        probes = []
        for site, proxy in itertools.chain.from_iterable(map(self._ways, self._sites)):
            for check, setting, url, call in (
                ("site", "KIMI_BASE_URL", site.base_url, sites.SITE_CALL),
                ("auth", "KIMI_AUTH_URL", site.auth_url, sites.AUTH_CALL),
            ):
                if setting in self._wrong:
                    yield Finding("skipped", check, f"not checked: {setting} is wrong")
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
            yield Finding("skipped", "clock", "not checked: no answer said what time it is")
        elif abs(ahead[0]) > _SKEW_S:
            way = "behind" if ahead[0] > 0 else "ahead of"
            found = f"this machine's clock is {abs(ahead[0]):.0f} s {way} Kimi's"
            yield Finding("warning", "clock", found, "set it (NTP): whether a token has expired is judged by it")
        else:
            yield Finding("ok", "clock", f"within {max(1.0, abs(ahead[0])):.0f} s of Kimi's")

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
            return Finding("skipped", "refresh", f"{c.label}: not tried: it needs the store")
        if self._wrong:
            return Finding("skipped", "refresh", f"{c.label}: not tried: the settings must be right first")
        if row.revoked:
            return Finding("skipped", "refresh", f"{c.label}: not tried: Kimi has refused this token already")
        due = row.access_token is None or (row.expires_at is not None and row.expires_at <= time.time() + 1)
        if not due and not self._options.refresh:
            until = "" if row.expires_at is None else f" until {when(row.expires_at)}"
            return Finding("ok", "refresh", f"{c.label}: not due{until} (--refresh does it all the same)")
        try:
            account = self._accounts.get(c.id)
            account = self._accounts.fresh(account) if due else self._accounts.after_rejection(account)
        except AccountRejected as e:
            return Finding("problem", "refresh", e.message)
        except UpstreamError as e:
            return Finding("problem", "refresh", e.message, "see the lines on auth and on site")
        return Finding("ok", "refresh", f"{c.label}: renewed; {_access('-', account.expires_at, time.time())}")

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
                yield Finding("skipped", "turn", f"{self._name(generation, site)}: not tried: {reason}")
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
                yield Finding("skipped", "tools", f"not tried: {reason or 'it needs the store'}")
                continue
            for generation in self._options.upstreams(None):
                yield from self._try_tools(generation, site, accounts[0], self._store)

    def _try_tools(self, generation: Generation, site: Site, account: Account, store: Store) -> Iterator[Finding]:
        model = model_for_agents(generation)
        name = f"{self._name(generation, site)}, {model.id}"
        yield Finding("ok", "tools", f"{name}: {len(TRIALS)} short turns follow; each counts against the account")
        tried, right, odd = 0, 0, Counter[str]()
        limit_s = min(_TURN_S, self._config.first_event_timeout_s)
        for result in run_trials(generation, model, account, self._accounts, store, limit_s):
            tried += 1
            right += not result.wrong
            odd.update(kind for kind in result.outcome.unrecognised if kind.startswith("tools:"))
            found = f"{name}: {result.trial.about}: {result.wrong or 'right'}"
            yield Finding("warning" if result.wrong else "ok", "tools", found)
        counted = "".join(f"; {kind} {times} times" for kind, times in sorted(odd.items()))
        mark: Mark = "ok" if right == len(TRIALS) else "warning"
        advice = "" if mark == "ok" else "docs/tools.md says which model to take and what can go wrong"
        yield Finding(mark, "tools", f"{name}: {right} of {tried} right{counted}", advice)

    def _why_no_turn(self, site: Site, accounts: Sequence[Account]) -> str | None:
        if "KIMI_BASE_URL" in self._wrong:
            return "KIMI_BASE_URL is wrong"
        if site.name not in self._probes or self._probes[site.name].reply is None:
            return "the site cannot be reached"
        if not accounts:
            return "no account has a token that works now"
        return None

    def _name(self, generation: Generation, site: Site) -> str:
        """The protocol, and the site where there are several."""
        return generation.upstream.name + (f" at {site.name}" if len(self._sites) > 1 else "")

    def _check_models(self, generation: Generation, site: Site, account: Account) -> Finding:
        name, ids = self._name(generation, site), ", ".join(model.id for model in generation.models)
        if isinstance(generation.upstream, _Catalogued):
            try:
                listing = generation.upstream.listing(account)
            except UpstreamError as e:
                advice = "the models that the gateway knows itself are served all the same"
                return Finding("warning", "models", f"{name}: {ids}; Kimi's own list: {e.message}", advice)
            generation.upstream.learn(site.name, listing)
            offered = ", ".join(offer.id or offer.key for offer in listing.offers)
            count = len(listing.offers)
            return Finding("ok", "models", f"{name}: {ids}; Kimi's own list names {count}: {offered or 'none'}")
        return Finding("ok", "models", f"{name}: {ids}")

    def _check_quotas(self, upstream: _Metered, accounts: Sequence[Account]) -> Iterator[Finding]:
        quotas = Quotas(self._store, upstream.subscription)
        for account in accounts:
            try:
                quota = quotas.of(account)
            except UpstreamError as e:
                yield Finding("skipped", "quota", f"{account.label}: Kimi does not say what is left ({e.message})")
                continue
            if quota is None:
                yield Finding("skipped", "quota", f"{account.label}: Kimi did not say what is left some minutes ago")
            elif quota.is_spent:
                found = f"{account.label}: {quota}; agents (K3, K2.8) need credits, plain chat does not"
                yield Finding("warning", "quota", found, "wait until they are renewed, or use another account")
            else:
                yield Finding("ok", "quota", f"{account.label}: {quota}")

    def _describe_turn(
        self, generation: Generation, site: Site, account: Account, outcome: Outcome, some_answered: bool
    ) -> Iterator[Finding]:
        name, model = self._name(generation, site), generation.models[0].id
        renewed = " after its token was rejected and renewed" if outcome.renewed else ""
        # If another protocol answers, its models can be used, and this one is no problem.
        failed: Mark = "warning" if some_answered else "problem"
        if outcome.error is not None:
            advice = next((text for kind, text in _ADVICE if isinstance(outcome.error, kind)), "")
            if isinstance(outcome.error, AccountRejected):
                advice = self._advice_on_site(account) or advice
            yield Finding(failed, "turn", f"{name}, {model}: {outcome.error.message}{renewed}", advice)
        elif not outcome.content:
            found = f"{name}, {model}: Kimi ended the answer without any text{renewed}"
            yield Finding(failed, "turn", found, "the account may be limited: try later, or with another account")
        else:
            found = (
                f"{name}, {model}: answered{renewed}; first token after {outcome.first_s or 0:.1f} s, complete after "
                f"{outcome.total_s:.1f} s"
            )
            yield Finding("ok", "turn", found)
        if outcome.undeleted is not None:
            advice = "the gateway tries again when it runs; see whether the chat is in your list at the Kimi site"
            yield Finding("warning", "turn", f"{name}: its chat could not be deleted: {outcome.undeleted}", advice)
        if self._store is not None:
            for kind in sorted(outcome.unrecognised):
                self._store.unrecognised.count(generation.upstream.name, kind, time.time())

    def _advice_on_site(self, account: Account) -> str:
        """What to do if a token may be used at the wrong site; empty if there is no sign of that."""
        declared = next((one for one in self._declared if one.id == account.id), None)
        home = None if declared is None else declared.credential.home
        if declared is None or home is None or is_at(declared.site.base_url, home.name):
            return ""
        return (
            f"{home.name} has issued this token, and tokens of one site are worth nothing at the other: unset "
            f"KIMI_BASE_URL, or write token@{home.name} in KIMI_TOKENS"
        )

    # what was not understood

    def _check_unrecognised(self) -> Iterator[Finding]:
        if self._store is None:
            yield Finding("skipped", "unknown", "not checked: it needs the store")
            return
        rows = self._store.unrecognised.all()[:_SHOWN_KINDS]
        for row in rows:
            if row.kind.startswith(REFUSED_FORM):
                form = row.kind.removeprefix(REFUSED_FORM)
                found = (
                    f"{row.upstream}: Kimi refused the form '{form}' {row.times} times, last at "
                    f"{when(row.last_seen_at)}; the next form of the same model was taken"
                )
                yield Finding("warning", "unknown", found, "nothing: the gateway remembers it, and tries it again")
                continue
            yield Finding(
                "warning",
                "unknown",
                f"{row.upstream} sent something unknown, '{row.kind}', {row.times} times, "
                f"last at {when(row.last_seen_at)}",
                "Kimi may have changed its protocol: update the gateway, or open an issue with --json and --record",
            )
        if not rows:
            yield Finding("ok", "unknown", "Kimi has sent nothing that this gateway does not know")


def _guarded(check: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """A check that raises does not end the others."""
    try:
        yield from findings
    except StoreError as e:
        found = f"the database fails in the middle of this ({e})"
        yield Finding("problem", check, found, "see what its log says, and try again")
    except Exception as e:  # a fault of ours or of an upstream: the log has the traceback
        log.exception("doctor_check_failed check=%s", check)
        yield Finding("problem", check, f"the doctor itself failed here ({type(e).__name__})", "please report this")


def _store_advice(path: Path | None, message: str = "") -> str:
    if "GATEWAY_SECRET" in message:
        return (
            "set the GATEWAY_SECRET that it was made with; if that is lost, move the database away and paste new "
            "refresh tokens"
        )
    if path is None:
        return "see that its server runs and can be reached from here, and that user, password and name are right"
    return "see that its folder exists, has room, and belongs to the user that the gateway runs as"


def _access(token: str | None, expires_at: float | None, now: float) -> str:
    if token is None:
        return "no access token yet"
    if expires_at is None:
        return "an access token that does not say when it expires"
    if expires_at <= now:
        return f"the access token expired at {when(expires_at)}"
    return f"the access token works until {when(expires_at)} ({duration(expires_at - now)} more)"
