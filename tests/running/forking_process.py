"""For ``fork_server.ForkServer``: the process that imports everything and forks.

Run as a file, because the package that it is in imports too much before gevent has patched the standard library.

It is asked on the socket whose number is its argument, and answers in JSON.

- ``start``, with three files: one that holds ``{"arguments", "env"}`` in JSON, one for the output, and a listening
  socket. It starts gunicorn and answers with its pid.
- A pid: it answers with the exit code, null as long as the process runs.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

_OURS = (
    "app.hosting.preflight",
    "app.hosting.booting",
    "app.hosting.worker",
    "app.hosting.servers",
    "app.factory",
    "app.cli",
)
# What is imported later than at the top of a module.
_OTHERS = (
    *("gunicorn.app.wsgiapp", "multiprocessing.popen_fork", "dotenv", "pydantic.type_adapter"),
    *("gevent.resolver.thread", "gevent.signal", "gevent.threadpool", "gevent.util"),
    *("sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql", "psycopg", "sqlite3"),
    *("app.api.completions.body", "app.api.messages.body", "app.api.responses.body", "cryptography.fernet"),
    "cryptography.hazmat.primitives.kdf.scrypt",
)


def _serve(control: socket.socket) -> list[str] | None:
    """Returns None at the end; in a child the arguments of the command that it was forked for."""
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1024, 3)
        if not message:
            return None
        if message == b"start":
            file, output, listener = fds
            answer: int | None = os.fork()
            if not answer:
                control.close()
                with os.fdopen(file) as opened:
                    request = json.load(opened)
                # The environment and the output of a new process.
                os.environ.clear()
                os.environ.update(request["env"])
                for fd in (1, 2):
                    os.dup2(output, fd)
                os.close(output)
                return [argument.format(fd=listener) for argument in request["arguments"]]
        else:
            ended, status = os.waitpid(int(message), os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        for fd in fds:
            os.close(fd)
        control.send(json.dumps(answer).encode())


def _patch_the_rest() -> None:
    """What gunicorn's worker calls as ``gevent.monkey.patch_all``."""
    from gevent import monkey

    monkey.patch_os()
    monkey.patch_signal()


def _import_all() -> None:
    """What a gateway imports, in the order in which a worker does."""
    from gevent import events, monkey

    # Not the functions by which gunicorn's master starts and ends processes. A worker patches them, and only them: if
    # everything were patched again, gevent would do twice what it does after a fork.
    monkey.patch_all(os=False, signal=False)
    monkey.patch_all = _patch_the_rest  # type: ignore[assignment]  # called without arguments
    # Other packages may subscribe, and none does: looking for them reads the metadata of all packages at each start.
    vars(events)["notify_and_call_entry_points"] = vars(events)["notify"]
    for module in (*_OURS, *_OTHERS):
        importlib.import_module(module)
    _build_addresses_later()
    _compile_statements()


def _compile_statements() -> None:
    """The SQL of all statements, for both kinds of databases: a third of what a gateway does until its first answers
    have ended."""
    import sqlalchemy as sa

    from app.store.database import compile_statement
    from app.store.dialects import PerDialect
    from app.store.dialects.postgresql import POSTGRESQL
    from app.store.dialects.sqlite import SQLITE

    names = [name for name in sys.modules if name.startswith("app.store.")]
    statements = [
        value
        for name in names
        for value in vars(sys.modules[name]).values()
        if isinstance(value, PerDialect | sa.SelectBase | sa.UpdateBase | sa.TextClause)
    ]
    for kind, url in ((SQLITE, "sqlite://"), (POSTGRESQL, "postgresql+psycopg://")):
        dialect = kind.open_engine(sa.make_url(url), False).dialect
        for statement in statements:
            compile_statement(statement, dialect)


def _build_addresses_later() -> None:
    """Each of our hundred URL rules compiles two functions that build addresses: a third of what a worker does at its
    start. They are compiled when they are called, which most are never."""
    from werkzeug.routing import Rule

    compile_now = Rule._compile_builder

    def compile_later(rule: Rule, append_unknown: bool = True) -> Callable[..., Any]:
        compiled = functools.cache(lambda: compile_now(rule, append_unknown))
        return lambda *arguments, **named: compiled()(*arguments, **named)

    # mypy takes no assignment to a method.
    setattr(Rule, "_compile_builder", compile_later)  # noqa: B010


def _run(arguments: list[str]) -> None:
    """The command ``gunicorn``, and its workers."""
    sys.argv = ["gunicorn", *arguments]
    try:
        importlib.import_module("gunicorn.app.wsgiapp").run()
    except SystemExit as e:
        _Exit.code = e.code if isinstance(e.code, int) else int(e.code is not None)
        raise


class _Exit:
    """The end of a process without that of the interpreter, which would copy the memory that all of them share."""

    code = 0

    @classmethod
    def now(cls) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(cls.code)


def main() -> None:
    # Registered first, so that it is done last.
    atexit.register(_Exit.now)
    sys.path.insert(0, str(ROOT))
    control = socket.socket(fileno=int(sys.argv[1]))
    gc.disable()
    _import_all()
    # The children would copy all pages of memory at their first garbage collection.
    gc.freeze()
    arguments = _serve(control)
    if arguments is not None:
        gc.enable()
        _run(arguments)


if __name__ == "__main__":
    main()
