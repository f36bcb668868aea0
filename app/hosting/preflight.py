"""Opens the database once before the workers do; ``gunicorn.conf.py`` runs it in a child of the server's master.

Migrations then happen in one process, and a database or a GATEWAY_SECRET that cannot be used stops the start with
one line. A process of its own, because the master must not load what gevent has yet to patch: so must not this file.
"""

import gc
import signal
import sys

from app.settings.config import Config


def check(config: Config) -> None:
    """Exits with the line that says what is wrong, if anything is."""
    # Whoever interrupts the start knows that it was interrupted.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # It lives too shortly to have garbage.
    gc.disable()
    from app.store import Store, StoreUnusable

    try:
        Store(config.database_url, config.gateway_secret).close()
    except StoreUnusable as error:
        sys.exit(f"kimi-gateway: {error}")
