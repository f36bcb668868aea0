"""Looks for all packages, and opens the database once before the workers do.

``gunicorn.conf.py`` runs this in a child of gunicorn's master. So a package that is missing after an upgrade stops
the start instead of a later request; the migrations run in one process; and a database or a GATEWAY_SECRET that
cannot be used stops the start with one line.

It is a separate process because the master must not import modules before gevent patches them. The master imports
this file, so this file must not import them at its top either.
"""

import gc
import signal
import sys

from app.settings import parsers
from app.settings.config import Config

# EX_CONFIG of sysexits.h: starting again cannot help. ``deploy/kimi-gateway.service`` knows it.
_CANNOT_START = 78


def stop(error: Exception) -> int:
    """Says in one line why the gateway does not start; the exit status for it."""
    sys.stderr.write(f"kimi-gateway: {error}\n")
    return _CANNOT_START


def check(config: Config) -> None:
    """Ends the process with one line if a package is missing or the database cannot be used."""
    # Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The process is too short-lived for garbage collection.
    gc.disable()
    missing = _missing_packages()
    if missing:
        names = ", ".join(missing)
        sys.exit(
            stop(ImportError(f"not installed: {names}; run: {sys.executable} -m pip install -r requirements.txt"))
        )
    from app.store import Store, StoreUnavailable, StoreUnusable

    try:
        store = Store(config.database_url, config.gateway_secret)
        # A person looks on. The log of a service is kept, so it gets no link.
        if config.console and sys.stderr.isatty():
            from app.console.entry import Entry, link_of

            link = link_of(config, Entry(store).make_ticket())
            sys.stderr.write(f"Open the console with this link; it works once, within 10 minutes:\n  {link}\n")
        store.close()
    except StoreUnusable as error:
        status = stop(error)
        sys.exit(1 if isinstance(error, StoreUnavailable) else status)


def _missing_packages() -> list[str]:
    """The packages of requirements.txt that are not installed in any version."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        lines = (parsers.HOME / "requirements.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        # A copy without the file.
        return []
    missing = []
    for line in lines:
        # NAME==VERSION or NAME[EXTRA]==VERSION, and a comment.
        name = line.partition("==")[0].partition("[")[0].strip()
        if name and not name.startswith("#"):
            try:
                distribution(name)
            except PackageNotFoundError:
                missing.append(name)
    return missing
