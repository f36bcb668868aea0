"""gunicorn's own log, in the form of ours: without secrets, with a length, and without what a client has sent.

gunicorn quotes a request that it cannot read, up to 8 KB of it: a line of a body, or a header with an API key in it.
"""

import logging
import sys
from typing import Any

from gunicorn import glogging
from gunicorn.http.errors import ParseException

from app import logs


class Logger(glogging.Logger):
    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            for handler in log.handlers:
                handler.setFormatter(_Formatter())

    def warning(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, ParseException):
            # gunicorn has formatted the message already, with the exception's text in it.
            msg = str(msg).replace(str(error), describe(error))
        super().warning(msg, *args, **kwargs)

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(sys.exc_info()[1], ParseException):
            self.warning("Invalid request: %s", describe(sys.exc_info()[1]))
        elif str(msg).startswith("Error handling request"):
            # The arguments are the method and the path. Clients put anything into paths.
            super().exception("Error handling request", **kwargs)
        else:
            super().exception(msg, *args, **kwargs)


class _Formatter(logging.Formatter):
    """The formatter of the moment: the master has it before the application is loaded, a worker after that."""

    def format(self, record: logging.LogRecord) -> str:
        return logs.formatter.format(record)


def describe(error: BaseException | None) -> str:
    """What is wrong with a request, without any of it: ``InvalidChunkSize``."""
    return type(error).__name__
