"""What WSGI servers other than gunicorn need: a check of their options, and their news of a stop.

Imports little, because ``check`` comes first.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

log = logging.getLogger(__name__)

# mod_wsgi kills a process 5 seconds after its stop, by default.
_STOP_S = 2.0
# Within so many seconds the first worker of uWSGI has stopped the others.
_FIRST_WORKER_S = 5.0


def check() -> None:
    """Stops uWSGI if gevent would patch sockets after the gateway has been loaded. Then nothing that the gateway has
    imported would wait for the sockets that others use. Called before other modules are imported."""
    if "uwsgi" in sys.modules:
        # A worker that is stopped while it loads must not print where it was. uWSGI sets its own handler afterwards.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    options = _uwsgi_options()
    if "gevent-monkey-patch" in options and "gevent-early-monkey-patch" not in options:
        stop("uWSGI: gevent-monkey-patch patches too late; set gevent-early-monkey-patch = true in its place")


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
        from app.settings import parsers

        log.warning(
            "gunicorn_conf_not_used advice=%r",
            f"start gunicorn in {parsers.HOME}, or with -c {parsers.HOME / 'gunicorn.conf.py'}",
        )


def stop(why: str, *, is_final: bool = True) -> NoReturn:
    """Ends the process with one line, as a start that fails. ``is_final``: no further try can succeed. Then uWSGI is
    stopped, too, because it would start its workers again and again; not at a reload, where its others go on."""
    # With status 4 gunicorn stops. With any other it starts the worker again and again, which is right if a worker is
    # replaced while the database is unavailable. At the first start preflight has checked the database before.
    uwsgi: Any = sys.modules.get("uwsgi")
    is_first_start = uwsgi is not None and any(
        worker["pid"] == os.getpid() and worker["respawn_count"] <= 1 for worker in uwsgi.workers()
    )
    if is_final and is_first_start and uwsgi.masterpid():
        if uwsgi.worker_id() != 1:
            # The first worker says it.
            time.sleep(_FIRST_WORKER_S)
        sys.stderr.write(f"kimi-gateway: {why}\n")
        sys.stderr.flush()
        os.kill(uwsgi.masterpid(), signal.SIGINT)
    else:
        sys.stderr.write(f"kimi-gateway: {why}\n")
    sys.exit(4 if is_final else 1)


def _uwsgi_options() -> frozenset[str]:
    # uWSGI puts this module into the interpreters that it starts, and into no other.
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is None:
        return frozenset()
    return frozenset(key.decode() if isinstance(key, bytes) else str(key) for key in uwsgi.opt)
