"""What gunicorn does at a HUP: it takes the present code and settings, or keeps what runs where they cannot be used.

gunicorn itself would start new workers and end the old ones, whatever becomes of the new ones: a wrong setting, a
module with a mistake in it or a database that cannot be used would end the gateway. So another process tries first
whether the gateway could start (``preflight.rehearse``). Only then the master forgets our modules: workers are forked
from it and would get the old ones.

As in ``preflight``, nothing is imported here that gevent patches.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from app.hosting.preflight import CAN_START
from app.settings import config as settings
from app.settings import parsers

# Longer than a start on a slow machine. Seconds.
_REHEARSAL_S = 60.0

# Called with the folder of the application and the arguments of ``rehearse``.
_REHEARSE = """
import sys
sys.path.insert(0, sys.argv[1])
from app.hosting.preflight import rehearse
rehearse(*sys.argv[2:])
"""


class Reloads:
    """Takes the place of ``gunicorn.arbiter.Arbiter.reload`` in the master ``server``."""

    def __init__(self, server: Any, conf: str, config: settings.Config) -> None:
        """``conf``: the path of ``gunicorn.conf.py``. ``config``: what is in use now."""
        self._server = server
        self._conf = conf
        self._requirements = _requirements()
        # Where it listens, if the command line says that: HOST is not what is to be checked then.
        is_own = server.cfg.bind == [f"{config.host}:{config.port}"]
        self._hosts = [] if is_own else [one[0] for one in server.cfg.address if isinstance(one, tuple)]

    def install(self) -> None:
        self._server.reload = self.reload

    def reload(self) -> None:
        reason = self._reason_to_keep()
        if reason is not None:
            self._server.log.error("not_reloaded reason=%r advice='what runs goes on; see above'", reason)
            return
        before = dict(os.environ), self._server.app.cfg, _own_modules()
        settings.forget_env_file()
        for name in before[2]:
            del sys.modules[name]
        importlib.invalidate_caches()
        try:
            type(self._server).reload(self._server)
        except SystemExit:
            if os.getpid() != self._server.pid:
                # A worker, which was forked in there, ends.
                raise
            # .env has become wrong since the rehearsal. Its error has been written.
            self._restore(*before)
            self._server.log.error("not_reloaded reason='settings have changed meanwhile'")

    def _reason_to_keep(self) -> str | None:
        """Why the gateway cannot be reloaded; None if it can."""
        if settings.is_env_file_gone():
            return ".env is gone; an empty one takes its settings back"
        if _requirements() != self._requirements:
            return "requirements.txt has changed; packages need a restart"
        import subprocess

        try:
            done = subprocess.run(
                [sys.executable, "-c", _REHEARSE, str(parsers.HOME), self._conf, *self._hosts],
                env=settings.environment_without_file(),
                cwd=parsers.HOME,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                timeout=_REHEARSAL_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"a start takes longer than {_REHEARSAL_S:.0f} seconds"
        except OSError as e:
            return f"no process can be started: {e.strerror}"
        # Its exit status cannot be relied on: gunicorn waits for any child, and may take it.
        return None if done.stdout.strip().endswith(CAN_START) else "the gateway could not start"

    def _restore(self, environment: dict[str, str], cfg: Any, modules: dict[str, Any]) -> None:
        for name in _own_modules():
            del sys.modules[name]
        sys.modules.update(modules)
        os.environ.clear()
        os.environ.update(environment)
        self._server.app.cfg = cfg


def _own_modules() -> dict[str, Any]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "app"}


def _requirements() -> str:
    try:
        return (Path(parsers.HOME) / "requirements.txt").read_text(encoding="utf-8")
    except OSError:
        # A copy without the file.
        return ""
