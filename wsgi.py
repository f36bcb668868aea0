"""The WSGI entry point: ``wsgi:app``, for gunicorn and for any other WSGI host."""

import os
import sys

from flask import Flask

from app import cli
from app.settings.config import Config, ConfigError, load_env_file
from app.store import StoreUnavailable, StoreUnusable

try:
    load_env_file()
    if cli.is_asked_for():
        # The doctor examines wrong settings and broken databases, so it must not need good ones.
        app = Flask("app")
    else:
        config = Config.from_env(os.environ)
        from app.factory import create_app

        app = create_app(config)
except (ConfigError, StoreUnusable) as error:
    sys.stderr.write(f"kimi-gateway: {error}\n")
    # With status 4 gunicorn gives up; with any other it starts the worker again and again, which is right where a
    # worker is replaced while the database is away. The first start has been stopped by preflight before.
    sys.exit(1 if isinstance(error, StoreUnavailable) else 4)
cli.register(app)
