"""Hangs the console into the gateway: requests below ``/console`` go to it, if it may be reached from there.

Who may not reach it gets what any unknown URL gets. Loads nothing of the console until it is needed.
"""

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from app.accounts.management import AccountManager
from app.accounts.pool import Accounts
from app.gateway import Gateway
from app.ledger.ledger import Ledger
from app.notifications.notifier import Notifier
from app.settings.config import Config, is_loopback
from app.store import Store
from app.web.local_requests import is_local

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PATH = "/console"

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Services:
    """What the console shows and changes."""

    config: Config
    store: Store
    gateway: Gateway
    accounts: Accounts
    ledger: Ledger
    account_manager: AccountManager
    notifier: Notifier | None
    """None without NOTIFY_URL."""


@dataclass(frozen=True, slots=True)
class Address:
    """An origin: scheme, host and port."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Address | None":
        """None if the URL has no origin."""
        try:
            parts = urlsplit(url)
            port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        except ValueError:
            return None
        if not parts.hostname or port is None:
            return None
        # 127.0.0.1 and localhost are the same machine.
        host = "localhost" if is_loopback(parts.hostname) else parts.hostname.lower()
        return cls(parts.scheme, host, port)


class Reach:
    """From where the console answers. ``url``: CONSOLE_URL, empty for this machine only."""

    def __init__(self, url: str) -> None:
        self._address = Address.of(url) if url else None

    def allows(self, environ: Mapping[str, Any]) -> bool:
        """Whether the request was sent to the console's address."""
        if self._address is None:
            return is_local(environ)
        sent_to = Address.of(f"{self._address.scheme}://{environ.get('HTTP_HOST', '')}")
        return sent_to == self._address

    def is_own_origin(self, environ: Mapping[str, Any]) -> bool:
        """Whether a page of the console sent the request, as its browser says."""
        origin = environ.get("HTTP_ORIGIN", "")
        if self._address is not None:
            return Address.of(origin) == self._address
        address = Address.of(origin)
        # None for "null", and for "tauri://localhost" and the like.
        return address is not None and address == Address.of(f"{address.scheme}://{environ.get('HTTP_HOST', '')}")

    @property
    def is_secure(self) -> bool:
        """Whether browsers use TLS."""
        return self._address is not None and self._address.scheme == "https"

    @property
    def is_behind_proxy(self) -> bool:
        """Whether forwarded addresses may be believed."""
        return self._address is not None


class ConsoleMount:
    """The WSGI application of the gateway: its APIs, and the console below ``/console``."""

    def __init__(self, apis: "WSGIApplication", services: Services) -> None:
        self._apis = apis
        self._services = services
        self._reach = Reach(services.config.console_url)
        self._console: WSGIApplication | None = None
        self._lock = threading.Lock()
        # A process that was forked after this one was made has no threads: its APIs say so.
        self._pid = os.getpid()

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path: str = environ["PATH_INFO"]
        if path.startswith(PATH) and path[len(PATH) : len(PATH) + 1] in ("", "/") and self._answers(environ):
            environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + PATH
            environ["PATH_INFO"] = path[len(PATH) :] or "/"
            return self._loaded()(environ, start_response)
        return self._apis(environ, start_response)

    def _answers(self, environ: "WSGIEnvironment") -> bool:
        return os.getpid() == self._pid and self._reach.allows(environ)

    def _loaded(self) -> "WSGIApplication":
        if self._console is None:
            with self._lock:
                if self._console is None:
                    from app.console.site import create_site

                    self._console = create_site(self._services, self._reach)
        return self._console
