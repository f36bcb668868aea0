"""The worker class of gunicorn's master: it becomes ``app.hosting.worker.Worker`` when the worker's process begins.

The master creates an object for each worker before it forks. If that object were the real one, the master would load
gevent for it. A loaded module stays in the memory of the master, and hardly anything of it stays shared, because the
worker writes reference counts into it: gevent took 4 MB more of a gateway.
"""

from typing import Any

from gunicorn.workers.base import Worker as BaseWorker


class Worker(BaseWorker):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._args = args

    def init_process(self) -> None:
        from app.hosting.worker import Worker as RealWorker

        worker = RealWorker(*self._args)
        # The master looks at the file that it knows to see whether the worker lives.
        worker.tmp.close()
        worker.tmp, worker.pid = self.tmp, self.pid
        try:
            worker.init_process()
        finally:
            # Says after a failure whether the master may start another one.
            self.booted = worker.booted
