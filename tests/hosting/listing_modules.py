"""The gateway's configuration of gunicorn. At its end each process writes into a file which modules it has loaded.

The files are ``master`` and ``worker`` in the folder MODULES_FOLDER.
"""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

globals().update(runpy.run_path(str(Path(__file__).parents[2] / "gunicorn.conf.py")))


def _list_modules(process: str) -> None:
    (Path(os.environ["MODULES_FOLDER"]) / process).write_text("\n".join(sys.modules))


def worker_exit(_server: Any, _worker: Any) -> None:
    _list_modules("worker")


def on_exit(_server: Any) -> None:
    _list_modules("master")
