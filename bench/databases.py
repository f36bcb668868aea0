"""The PostgreSQL of the scenario ``mix``: a given one, or a temporary one.

Must never know what is measured.
"""

import contextlib
import os
from collections.abc import Iterator

from bench.processes import SERVER_CORE
from tests.running.postgres import MissingServer, folder_of_a_run, one_for_all, programs


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """The URL: ``BENCH_DATABASE_URL``, or that of a server that runs during this context. "" if none can run here."""
    given = os.environ.get("BENCH_DATABASE_URL", "")
    if given:
        yield given
        return
    try:
        programs()
    except MissingServer:
        print("left out: the gateway on PostgreSQL: its server programs are not installed (make servers)")
        yield ""
        return
    cores = os.sched_getaffinity(0)
    with folder_of_a_run() as folder:
        # Its work is part of the cost of an answer, so it shares the core of the server under test.
        os.sched_setaffinity(0, {SERVER_CORE})
        try:
            cluster = one_for_all(folder)
        finally:
            os.sched_setaffinity(0, cores)
        cluster.create_database("bench")
        yield cluster.url("bench")
