"""The gateway's worker with limits that tests can wait for."""

from app.hosting import worker
from app.hosting.client_socket import Limits


class Worker(worker.Worker):
    limits = Limits(head_s=1.0, body_silence_s=1.0, body_s=1.5, linger_s=1.0, stuck_s=1.0)
