"""``.env`` is read again at a HUP: what has changed counts, and what cannot be read changes nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

GOOD = "KIMI_TOKENS=alice=token-of-alice\nGATEWAY_API_KEYS=one,two\nQUEUE_MAX=7\n"

# Reads the settings of a folder as gunicorn's master does, once for each version of the file on standard input, and
# shows what counts.
_PROGRAM = """
import os, sys
from pathlib import Path
from app.settings.config import load_config, load_env_file
folder = Path(sys.argv[1])
for version in sys.stdin.read().split("---\\n"):
    if version == "GONE":
        (folder / ".env").unlink()
    elif version == "FORK":
        (folder / ".env").write_text("broken")
        pid = os.fork()
        if pid == 0:
            load_env_file(folder)
            os._exit(0 if os.environ["QUEUE_MAX"] == "7" else 1)
        print("forked", os.waitpid(pid, 0)[1])
        continue
    else:
        (folder / ".env").write_bytes(version.encode("latin-1"))
    config, error = load_config(folder)
    print([key.secret for key in config.api_keys], config.queue_max, config.port, error)
"""


def read_each(folder: Path, *versions: str, **env: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, folder],
        input="---\n".join(versions),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": ".", **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_is_taken_out_or_changed_counts(tmp_path: Path) -> None:
    lines = read_each(tmp_path, GOOD, GOOD.replace("one,two", "two"), GOOD.replace("QUEUE_MAX=7\n", "PORT=1234\n"))
    assert lines == [
        "['one', 'two'] 7 8000 None",
        "['two'] 7 8000 None",
        "['one', 'two'] 500 1234 None",
    ]


def test_what_was_set_otherwise_goes_on_to_count(tmp_path: Path) -> None:
    lines = read_each(tmp_path, GOOD, GOOD.replace("QUEUE_MAX=7", "QUEUE_MAX=8"), QUEUE_MAX="9")
    assert [line.split()[-3] for line in lines] == ["9", "9"]


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("one two three\n", "line 1"),
        (GOOD.replace("QUEUE_MAX=7", "QUEUE_MAX=many"), "QUEUE_MAX=many"),
        ("STORE_TRANSCRIPTS=1\n", "GATEWAY_SECRET"),
        ("KIMI_TOKENS=\xff\n", "UTF-8"),
        ("GONE", ".env is gone"),
    ],
    ids=["a line", "a value", "settings that do not fit", "bytes", "the file is gone"],
)
def test_what_cannot_be_used_changes_nothing_and_is_told(tmp_path: Path, broken: str, says: str) -> None:
    first, second, third = read_each(tmp_path, GOOD, broken, GOOD.replace("one,two", "three"))
    assert first == "['one', 'two'] 7 8000 None"
    assert second.startswith("['one', 'two'] 7 8000 ") and says in second
    assert third == "['three'] 7 8000 None"


def test_a_worker_keeps_what_its_master_has_read(tmp_path: Path) -> None:
    assert read_each(tmp_path, GOOD, "FORK")[-1] == "forked 0"
