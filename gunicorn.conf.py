"""How gunicorn runs the gateway. Run ``gunicorn`` in this folder; it needs no further option.

Imports nothing that opens sockets, because gevent must patch the standard library first, in each worker.
"""

import contextlib
import gc
import os
import resource
import sys
import time
from multiprocessing import get_context
from pathlib import Path

# For a gunicorn that was started in another folder, with ``-c`` and the path of this file.
_FOLDER = Path(__file__).absolute().parent
if str(_FOLDER) not in sys.path:
    sys.path.insert(0, str(_FOLDER))

from app import logs  # noqa: E402  # the folder must be known first
from app.hosting import preflight  # noqa: E402
from app.hosting.reloading import Reloads  # noqa: E402
from app.settings.config import Config, ConfigError, load_env_file  # noqa: E402

try:
    # An invalid setting stops the start here with one line, instead of in every worker.
    load_env_file()
    _config = Config.from_env(os.environ)
except ConfigError as error:
    sys.exit(preflight.stop(error))

# Each stream has two connections, and the default limit of many systems is 1,024 open files per process. Raised as
# far as possible: 2,000 streams in one worker need it (bench, scenario "slow").
_, _most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
with contextlib.suppress(ValueError, OSError):
    # macOS reports no limit, and accepts none.
    resource.setrlimit(resource.RLIMIT_NOFILE, (_most_files, _most_files))

wsgi_app = "wsgi:app"
chdir = str(_FOLDER)
bind = f"{_config.host}:{_config.port}"
workers = _config.workers
# It becomes ``app.hosting.worker.Worker`` in the worker: gevent with faster client sockets. The thresholds of the
# garbage collector and gevent's loop are the defaults, because others made no difference (docs/performance.md).
worker_class = "app.hosting.booting.Worker"
# Streams per worker. Most of them wait: 2,000 streams of one token per second take 60 KB each (bench, scenario
# "slow").
worker_connections = 4096
# A worker whose event loop does not run for so long is replaced. Long streams do not count. Seconds.
timeout = 120
graceful_timeout = 30
# Longer than proxies and clients usually keep a connection, so that it is not closed while a request arrives.
keepalive = 75
# The gateway itself logs one line per turn.
accesslog = None
errorlog = "-"
loglevel = "warning"
logger_class = "app.hosting.server_log.Logger"
logs.redact(_config.secrets)
# Of the files by which workers say that they live. In memory, where there is such a folder: they are touched every
# second, and a container may have nothing else that can be written to.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
# It would create a socket in the home directory, which may be read-only.
control_socket_disable = True

# Whether this file has been read again after a HUP.
_was_reloaded = False


def on_starting(server):  # type: ignore[no-untyped-def]  # gunicorn's hook; its types are not published
    """Checks the addresses again, because the command line may name others than HOST; then the database."""
    try:
        _config.check_bind([address[0] for address in server.cfg.address if isinstance(address, tuple)])
    except ConfigError as error:
        sys.exit(preflight.stop(error))
    if server.cfg.worker_class_str == "sync":
        # Such a worker shows that it lives between two answers only.
        server.timeout = 0
        server.log.warning("sync_workers advice=%r", "each serves one answer at a time; leave out -k, or -k gthread")
    if server.cfg.preload_app:
        # The application is loaded, so the database has been opened. A process forked from its threads could wait for
        # ever for a lock that one of them held.
        return
    Reloads(server, __file__, _config).install()
    # Forked, which is faster than a new interpreter.
    process = get_context("fork").Process(target=preflight.check, args=(_config,))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


def on_reload(server):  # type: ignore[no-untyped-def]  # as above
    """At a HUP, when this file has been read again: the master leaves nothing to our earlier modules."""
    global _was_reloaded
    _was_reloaded = True
    if not server.cfg.preload_app:
        Reloads(server, __file__, _config).install()
        server.log = server.cfg.logger_class(server.cfg)


def pre_fork(_server, _worker):  # type: ignore[no-untyped-def]  # as above
    """What garbage collection does not touch stays shared by master and worker. After a HUP, objects of an earlier
    fork may have become garbage: all our modules."""
    if _was_reloaded:
        gc.unfreeze()
    gc.collect()
    gc.freeze()


def post_fork(_server, _worker):  # type: ignore[no-untyped-def]  # as above
    """No garbage collection while the application is loaded: of its 100,000 objects none is garbage. It took a sixth
    of the time of a start, and half of the time of a stop."""
    gc.disable()


def post_worker_init(_worker):  # type: ignore[no-untyped-def]  # as above
    """A full collection of 2,000 streams holds all of them for 100 to 250 ms. It comes after 500,000 new objects, and
    not after 70,000 (https://docs.python.org/3.11/library/gc.html#gc.set_threshold)."""
    gc.freeze()
    gc.set_threshold(2_000, 10, 25)
    gc.enable()


def on_exit(_server):  # type: ignore[no-untyped-def]  # as above
    """Waits for processes that renew tokens. If the master is the first process of a container, they become its
    children and die with it, and a token that Kimi has just rotated would be lost. Elsewhere it has no children."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            time.sleep(0.05)
