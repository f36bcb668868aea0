"""Opens the database once before the workers do. ``gunicorn.conf.py`` runs this in a child of gunicorn's master.

So the migrations run in one process, and a database or a GATEWAY_SECRET that cannot be used stops the start with one
line. It is a separate process because the master must not import modules before gevent patches them. The master
imports this file, so this file must not import them at its top either.
"""

import gc
import signal
import sys

from app.settings.config import Config


def check(config: Config) -> None:
    """Ends the process with one line if the database cannot be used."""
    # Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The process is too short-lived for garbage collection.
    gc.disable()
    from app.store import Store, StoreUnusable

    try:
        store = Store(config.database_url, config.gateway_secret)
        # A person looks on. The log of a service is kept, so it gets no link.
        if config.console and sys.stderr.isatty():
            from app.console.entry import Entry, link_of

            link = link_of(config, Entry(store).make_ticket())
            sys.stderr.write(f"The console, for one visit within ten minutes:\n  {link}\n")
        store.close()
    except StoreUnusable as error:
        sys.exit(f"kimi-gateway: {error}")
