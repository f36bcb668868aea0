"""Opens the database once before the workers do: ``python -m app.preflight``, run by ``gunicorn.conf.py``.

Migrations then happen in one process, and a database or a GATEWAY_SECRET that cannot be used stops the start with
one line. A process of its own, because the server's master must not load what gevent has yet to patch.
"""

import os
import sys

from app.config import Config
from app.store import Store, StoreUnusable


def main() -> None:
    config = Config.from_env(os.environ)
    try:
        Store(config.database_url, config.gateway_secret).close()
    except StoreUnusable as error:
        sys.exit(f"kimi-gateway: {error}")


if __name__ == "__main__":
    main()
