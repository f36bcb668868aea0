"""The WSGI entry point: ``wsgi:app``, for gunicorn and for any other WSGI host."""

import os
import sys

# mod_wsgi and CGI do not search modules in the folder of this file.
_FOLDER = os.path.dirname(os.path.abspath(__file__))
if _FOLDER not in sys.path:
    sys.path.insert(0, _FOLDER)

from flask import Flask  # noqa: E402  # as below: the folder must be known first

from app import cli  # noqa: E402
from app.hosting import servers  # noqa: E402
from app.settings.config import Config, ConfigError, load_env_file  # noqa: E402
from app.store import StoreUnavailable, StoreUnusable  # noqa: E402

try:
    servers.check()
    load_env_file()
    if cli.is_running():
        # The doctor checks invalid settings and broken databases, so it must start with them.
        app = Flask("app")
    else:
        config = Config.from_env(os.environ)
        from app.factory import create_app

        app = create_app(config)
        servers.connect(app.extensions["gateway"].end_within)
except (ConfigError, StoreUnusable) as error:
    sys.stderr.write(f"kimi-gateway: {error}\n")
    # With status 4 gunicorn stops. With any other it starts the worker again and again, which is right if a worker is
    # replaced while the database is unavailable. At the first start preflight has checked the database before.
    sys.exit(1 if isinstance(error, StoreUnavailable) else 4)
cli.register(app)
# The name that mod_wsgi and Passenger look for.
application = app
