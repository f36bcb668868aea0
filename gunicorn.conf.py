"""How gunicorn runs the gateway: ``gunicorn`` in this folder needs no further option.

Imports nothing that opens sockets: gevent must patch the standard library first, in each worker.
"""

import contextlib
import gc
import os
import resource
import sys
import time
from multiprocessing import get_context

from app.hosting import preflight
from app.settings.config import Config, ConfigError, load_env_file

try:
    load_env_file()
    # A wrong setting stops the start here, with one line, instead of in every worker.
    _config = Config.from_env(os.environ)
except ConfigError as error:
    sys.exit(f"kimi-gateway: {error}")

# A stream holds two connections, and many systems allow a process 1,024 files unless it asks for more. As far as it
# may be raised, it is: 2,000 streams in one worker need it (bench, scenario "slow").
_, _most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
with contextlib.suppress(ValueError, OSError):
    # macOS has no limit and takes none.
    resource.setrlimit(resource.RLIMIT_NOFILE, (_most_files, _most_files))

wsgi_app = "wsgi:app"
bind = f"{_config.host}:{_config.port}"
workers = _config.workers
# gevent, and client sockets that try to send before they ask how much they may: 5 % of a token.
# Not changed, because no difference was seen (docs/performance.md): the collector's thresholds, the loop.
worker_class = "app.hosting.worker.Worker"
# Streams at once per worker; each is one connection that mostly waits: 2,000 of one token per second take 60 KB each
# (bench, scenario "slow").
worker_connections = 4096
# A worker that does not answer its master for so long is replaced; long streams are no reason.
timeout = 120
graceful_timeout = 30
# Longer than proxies and clients usually keep a connection, so that none is closed under a request.
keepalive = 75
# The gateway writes one line per turn itself.
accesslog = None
errorlog = "-"
loglevel = "warning"
# Off: it would put a socket into the home directory, which may be read-only.
control_socket_disable = True


def on_starting(server):  # type: ignore[no-untyped-def]  # gunicorn's hook; its types are not published
    """The command line may bind elsewhere than HOST says: the same rule holds for it. Then the database."""
    try:
        _config.check_bind([address[0] for address in server.cfg.address if isinstance(address, tuple)])
    except ConfigError as error:
        sys.exit(f"kimi-gateway: {error}")
    # Forked, which is quicker than a new interpreter; what it loads is gone with it.
    process = get_context("fork").Process(target=preflight.check, args=(_config,))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(1)


def post_fork(_server, _worker):  # type: ignore[no-untyped-def]  # as above
    """Loading makes a hundred thousand objects that stay: to search them for garbage again and again was a sixth of
    the time of a start, and to do it once more at the end was half of the time of a stop."""
    gc.disable()


def post_worker_init(_worker):  # type: ignore[no-untyped-def]  # as above
    gc.freeze()
    gc.enable()


def on_exit(_server):  # type: ignore[no-untyped-def]  # as above
    """As the first process of a container the master inherits a process that renews a token, and all die with it:
    a token that Kimi has just rotated would be lost. Elsewhere it has no children left."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            time.sleep(0.05)
