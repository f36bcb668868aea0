"""One gateway's process, as far as accounts go. It imports little: a process that a test kills is soon started."""

from collections.abc import Iterator

from app.accounts.management import AccountManager, TrialStep
from app.accounts.pool import Accounts
from app.accounts.registry import DeclaredAccount, Registry
from app.accounts.standings import Language
from app.settings.credentials import parse_credentials
from app.settings.sites import KIMI_COM
from app.simulator import tokens
from app.store import Store
from app.upstreams.account import Account

SECRET = "a long enough password"


class NobodyRenews:
    """Renewals that were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def ask(self, account: DeclaredAccount, version: int) -> None:
        self.asked.append(f"{account.label} {version}")


class SilentKimi:
    """A Kimi that no test here asks."""

    def refuses(self, account: Account) -> bool | None:
        raise AssertionError("a refresh token is not shown to Kimi")

    def try_out(self, account_id: str, language: Language) -> Iterator[TrialStep]:
        raise NotImplementedError

    def quota(self, account_id: str) -> object | None:
        raise NotImplementedError


class House:
    """One gateway's process, as far as accounts go."""

    def __init__(self, url: str, settings: str = "", secret: str = SECRET, *, settles: bool = True) -> None:
        self.store = Store(url, secret)
        credentials = parse_credentials(settings) if settings else ()
        self.registry = Registry(credentials, lambda _: KIMI_COM, self.store, settles=settles)
        self.renewals = NobodyRenews()
        self.pool = Accounts(self.registry, self.store, self.renewals)
        self.manager = AccountManager(
            self.registry,
            self.store,
            self.renewals,
            SilentKimi(),
            capacity=2,
            site_of=lambda _: KIMI_COM,
            after_change=self.pool.take_over,
        )

    def close(self) -> None:
        self.store.close()

    def tokens(self) -> list[str]:
        """The last letters of the token that each account uses."""
        self.pool.look_for_changes()
        found = []
        for account in self.pool.all.values():
            row = self.pool.row(account.id)
            token = row.refresh_token if row is not None else account.credential.access_token
            found.append(f"{account.label} {(token or '')[-6:]}")
        return found


def refresh(user: str = "alice") -> str:
    return tokens.mint(user, "refresh", 7_776_000)
