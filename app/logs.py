"""What is logged and how: one line per event on standard error, with the request's id, without secrets.

Must never know message text: no caller passes any.
"""

import logging
import re
import sys
from collections.abc import Sequence
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="-")

# A JWT, wherever it comes from: those of the accounts are the only ones around.
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")

# What ends a line somewhere, or moves the cursor of a terminal.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class _Redacting(logging.Formatter):
    """The last line of defence: the secrets that we know are taken out of every record, tracebacks too."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s [%(process)d] [%(request_id)s] %(name)s: %(message)s")
        # The longest first: a short one may be the beginning of another. Shorter words than a real secret would
        # blank out half the log.
        parts = [re.escape(secret) for secret in sorted(secrets, key=len, reverse=True) if len(secret) >= 6]
        self._secrets = re.compile("|".join([*parts, _JWT.pattern]))

    def formatMessage(self, record: logging.LogRecord) -> str:
        # Words that came from elsewhere must not look like a line of ours; a traceback, which follows, has its own.
        return _CONTROLS.sub(" ", super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        record.request_id = request_id.get()
        return self._secrets.sub("[secret]", super().format(record))


def configure(level: str, secrets: Sequence[str]) -> None:
    """Sends everything of ``level`` and above to standard error; the libraries below WARNING stay silent."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting(secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("app").setLevel(level)
