"""The PostgreSQL that the stateful mix runs on: a given one, or one of the run's own.

Must never know what is measured.
"""

import contextlib
import os
from collections.abc import Iterator

from bench.processes import SERVER_CORE
from tests.running.postgres import MissingServer, folder_of_a_run, one_for_all, programs


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Its URL: ``BENCH_DATABASE_URL``, else that of a server that lives as long as this; empty where none can."""
    given = os.environ.get("BENCH_DATABASE_URL", "")
    if given:
        yield given
        return
    try:
        programs()
    except MissingServer:
        print("left out: the gateway on PostgreSQL, whose server programs are not here (make servers)")
        yield ""
        return
    cores = os.sched_getaffinity(0)
    with folder_of_a_run() as folder:
        # What it does is a part of what an answer costs: it shares the core of the server under test.
        os.sched_setaffinity(0, {SERVER_CORE})
        try:
            cluster = one_for_all(folder)
        finally:
            os.sched_setaffinity(0, cores)
        cluster.create_database("bench")
        yield cluster.url("bench")
