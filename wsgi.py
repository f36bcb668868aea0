"""The WSGI entry point: ``wsgi:app``, for gunicorn and for any other WSGI host."""

import os
import sys

from flask import Flask

from app import cli
from app.settings.config import Config, ConfigError, load_env_file
from app.store import StoreUnavailable, StoreUnusable

try:
    load_env_file()
    if cli.is_running():
        # The doctor checks invalid settings and broken databases, so it must start with them.
        app = Flask("app")
    else:
        config = Config.from_env(os.environ)
        from app.factory import create_app

        app = create_app(config)
except (ConfigError, StoreUnusable) as error:
    sys.stderr.write(f"kimi-gateway: {error}\n")
    # With status 4 gunicorn stops. With any other it starts the worker again and again, which is right if a worker is
    # replaced while the database is unavailable. At the first start preflight has checked the database before.
    sys.exit(1 if isinstance(error, StoreUnavailable) else 4)
cli.register(app)
