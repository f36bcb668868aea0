"""For ``commands.first_lines_of_starts``: reads a JSON list of environments, does with each what gunicorn does first,
and prints a JSON list of what it would end with; null where the start would go on.
"""

import contextlib
import io
import json
import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def first_line(env: dict[str, str]) -> object:
    os.environ.clear()
    os.environ.update(env)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            runpy.run_path(str(ROOT / "gunicorn.conf.py"))
        except SystemExit:
            return said.getvalue().strip()
    return None


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    environments = json.load(sys.stdin)
    json.dump([first_line(env) for env in environments], sys.stdout)
