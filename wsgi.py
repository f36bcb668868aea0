"""The WSGI entry point: ``wsgi:app``, for gunicorn and for any other WSGI host."""

import os
import sys

# mod_wsgi and CGI do not search modules in the folder of this file.
_FOLDER = os.path.dirname(os.path.abspath(__file__))
if _FOLDER not in sys.path:
    sys.path.insert(0, _FOLDER)

from app.hosting import servers  # noqa: E402  # as below: the folder must be known first

# Before the imports that take a second.
servers.check()

import click  # noqa: E402
from flask import Flask  # noqa: E402

from app.settings.config import Config, ConfigError, load_env_file  # noqa: E402
from app.store import StoreUnavailable, StoreUnusable  # noqa: E402

# The commands are for the ``flask`` command only.
is_command = click.get_current_context(silent=True) is not None
if is_command:
    from app import cli

try:
    load_env_file()
    if is_command and not cli.uses_the_gateway():
        # The doctor checks invalid settings and broken databases, so it must start with them.
        app = Flask("app")
    else:
        config = Config.from_env(os.environ)
        from app.factory import create_app

        app = create_app(config)
        servers.connect(app.extensions["gateway"].end_within)
except (ConfigError, StoreUnusable) as error:
    servers.stop(str(error), is_final=not isinstance(error, StoreUnavailable))
if is_command:
    cli.register(app)
# The name that mod_wsgi and Passenger look for.
application = app
