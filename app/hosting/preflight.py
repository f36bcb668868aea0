"""Whether the gateway can start. Looks for all packages, and opens the database once before the workers do.

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
# What ``rehearse`` says where the gateway could start.
CAN_START = "can start"


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


def rehearse(conf: str, *hosts: str) -> None:
    """Tries whether the gateway could start now, and says so on standard output; ends the process if not.

    For a process of its own. It does all that a start does, except background work. ``conf``: the path of
    ``gunicorn.conf.py``. ``hosts``: where gunicorn listens, if that is not HOST.
    """
    import importlib
    import logging
    import runpy

    try:
        config: Config = runpy.run_path(conf)["_config"]
        config.check_bind(list(hosts))
        check(config)
        from app.factory import create_app

        # What a start warns about was said at the start.
        logging.disable(logging.WARNING)
        create_app(config, starts=False)
        for name in ("app.cli", "app.hosting.server_log", "app.hosting.worker"):
            importlib.import_module(name)
        sys.stdout.write(f"{CAN_START}\n")
    except Exception as error:  # noqa: BLE001  # the border of the process
        sys.exit(stop(RuntimeError(f"{type(error).__name__} in {_place_of(error)}: {error}")))


def _place_of(error: Exception) -> str:
    """The file and line that an error is about."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    return "?" if frames is None else f"{frames.tb_frame.f_code.co_filename}, line {frames.tb_lineno}"


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
