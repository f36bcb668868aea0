"""What WSGI servers other than gunicorn need: a check of their options, and their news of a stop."""

import logging
import sys
from collections.abc import Callable
from typing import Any

from app.settings import parsers
from app.settings.config import ConfigError

log = logging.getLogger(__name__)

# mod_wsgi kills a process 5 seconds after its stop, by default.
_STOP_S = 2.0


def check() -> None:
    """Raises ConfigError: under uWSGI, if gevent would patch sockets after the gateway has been loaded. Then nothing
    that the gateway has imported waits for the sockets that others use."""
    options = _uwsgi_options()
    if "gevent-monkey-patch" in options and "gevent-early-monkey-patch" not in options:
        raise ConfigError(
            "uWSGI: gevent-monkey-patch patches too late; set gevent-early-monkey-patch = true in its place"
        )


def connect(end_within: Callable[[float], None]) -> None:
    """Lets running answers end with an error when mod_wsgi stops or reloads its process. Otherwise mod_wsgi would
    cut them, and its last chunk would make them look complete. Warns if gunicorn runs without our configuration.

    ``end_within``: ends the running answers within so many seconds.
    """
    mod_wsgi: Any = sys.modules.get("mod_wsgi")
    subscribe = getattr(mod_wsgi, "subscribe_shutdown", None)
    if subscribe is not None:
        subscribe(lambda *_args, **_kwargs: end_within(_STOP_S))
    # Our configuration imports preflight.
    if "gunicorn.arbiter" in sys.modules and "app.hosting.preflight" not in sys.modules:
        log.warning(
            "gunicorn_conf_not_used advice=%r",
            f"start gunicorn in {parsers.HOME}, or with -c {parsers.HOME / 'gunicorn.conf.py'}",
        )


def _uwsgi_options() -> frozenset[str]:
    # uWSGI puts this module into the interpreters that it starts, and into no other.
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is None:
        return frozenset()
    return frozenset(key.decode() if isinstance(key, bytes) else str(key) for key in uwsgi.opt)
