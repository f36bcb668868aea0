"""What is logged and how: one line per event on standard error, with the request's id, without secrets.

What a client or Kimi sent may stand in a record, but only up to a length: ``MAX_MESSAGE`` and ``MAX_TRACEBACK``. Must
never know message text: no caller passes any.
"""

import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

request_id: ContextVar[str] = ContextVar("request_id", default="-")

# The longest message of a record, the longest text of an exception in a traceback, and the longest traceback.
# Characters.
MAX_MESSAGE = 4_000
MAX_EXCEPTION = 500
MAX_TRACEBACK = 20_000
# A secret is redacted before a text is cut, or a part of it would stay. This much more is read for that.
_LONGEST_SECRET = 8_192

# A JWT, or an opaque refresh token of Kimi, wherever it comes from: those of the accounts are the only ones around.
_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*|\bcpmt_[\w.=+/~-]{8,}")

# What ends a line somewhere, or moves the cursor of a terminal.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_FORMAT = "%(asctime)s %(levelname)s [%(process)d] [%(request_id)s] %(name)s: %(message)s"


class Redacting(logging.Formatter):
    """The last line of defence: known secrets are taken out of every record and its traceback, and both are cut."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__(_FORMAT)
        self._words: set[str] = set()
        self._secrets = _TOKEN
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """From now on these are taken out, too."""
        # Shorter words than a real secret would blank out half the log. Most secrets are tokens, which one pattern
        # finds: a pattern with hundreds of words would take milliseconds for each line.
        words = {secret for secret in secrets if len(secret) >= 6 and not _TOKEN.fullmatch(secret)}
        if not words <= self._words:
            self._words |= words
            # The longest first: a short one may be the beginning of another.
            parts = [re.escape(secret) for secret in sorted(self._words, key=len, reverse=True)]
            self._secrets = re.compile("|".join([*parts, _TOKEN.pattern]))

    def format(self, record: logging.LogRecord) -> str:
        record.request_id = request_id.get()
        record.message = self._shortened(record.getMessage(), MAX_MESSAGE)
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        # Words that came from elsewhere must not look like a line of ours; a traceback, which follows, has its own.
        line = _CONTROLS.sub(" ", self.formatMessage(record))
        if record.exc_info and record.exc_info[1] is not None:
            # Not kept in the record, as logging does: another handler has a formatter of its own.
            line = f"{line}\n{self._traceback(record.exc_info[1])}"
        return line

    def _traceback(self, error: BaseException) -> str:
        text = "".join(self._described(one) for one in _chain(error))
        if len(text) > MAX_TRACEBACK:
            # Its beginning says where it began, its end what happened.
            half = MAX_TRACEBACK // 2
            text = f"{text[:half]}\n  [... {len(text) - 2 * half} characters ...]\n{text[-half:]}"
        return text.rstrip("\n")

    def _described(self, error: BaseException) -> str:
        # With lines of source code: from Python 3.13 on also of code that was given on the command line.
        frames = self._secrets.sub("[secret]", "".join(traceback.format_tb(error.__traceback__)[-50:]))
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        text = _CONTROLS.sub(" ", self._shortened(_text_of(error), MAX_EXCEPTION))
        return f"Traceback (most recent call last):\n{frames}{name}: {text}\n"

    def _shortened(self, text: str, length: int) -> str:
        """``text`` without secrets and not much longer than ``length``."""
        short = self._secrets.sub("[secret]", text[: length + _LONGEST_SECRET])
        left_out = len(text) - length
        return short if len(short) <= length else f"{short[:length]}[... {max(left_out, 0)} characters]"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  # an exception that cannot be shown must not hide where it happened
        return "(it cannot be shown)"


def _chain(error: BaseException) -> list[BaseException]:
    """The exception, after those that caused it or during whose handling it was raised."""
    chain, following = [error], error
    while len(chain) < 5:
        earlier = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
        if earlier is None or earlier in chain:
            break
        chain.append(earlier)
        following = earlier
    return chain[::-1]


def with_request_id(work: Callable[P, T]) -> Callable[P, T]:
    """``work`` for another thread, where its lines have the id of the present request. The context of the request
    must not be copied for that: it holds all that the server and Flask know of it."""
    id_ = request_id.get()

    # The annotations are strings because those of P make two objects at each call, which ``run`` would hold.
    def run(*args: "P.args", **kwargs: "P.kwargs") -> T:
        request_id.set(id_)
        return work(*args, **kwargs)

    return run


# For servers that have loggers of their own, see ``app.hosting.server_log``. Replaced by ``configure``.
formatter = Redacting(())


def redact(secrets: Sequence[str]) -> None:
    """From here on ``formatter`` takes these out of records."""
    global formatter
    formatter = Redacting(secrets)


def learn_secrets(secrets: Sequence[str]) -> None:
    """From here on ``formatter`` takes these out of records, too."""
    formatter.learn(secrets)


def configure(level: str, secrets: Sequence[str]) -> None:
    """Sends everything of ``level`` and above to standard error; the libraries below WARNING stay silent. Exceptions
    that no one has caught are logged, too."""
    redact(secrets)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("app").setLevel(level)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, _frames: TracebackType | Any) -> None:
    if not issubclass(kind, KeyboardInterrupt | SystemExit):
        logging.getLogger("app").critical("exception_not_caught", exc_info=error or kind())
