"""The findings of the checks, and the removal of private data from them. Must never know how anything is checked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from app.accounts.standings import Language
from app.doctor.wording import Sentence, written
from app.settings.config import Config
from app.settings.credentials import Credential

Mark = Literal["ok", "warning", "problem", "skipped"]

# Bearer tokens of any origin.
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.?[\w-]*")
# Names in the error messages of libpq: a host with its address, a user, a database.
_DATABASE_NAMES = re.compile(
    r"""\b(server at|host name|host|user|role|database|on socket) "[^"]*"( \([^)]*\))?(, port \d+)?"""
)
# The user name and password in a URL.
_USER_INFO = re.compile(r"//[^/@\s]*@")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and what to do about it: sentences with their values."""

    mark: Mark
    check: str
    found: Sentence
    advice: Sentence | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A finding in one language, without secrets. ``advice``: empty if nothing has to be done."""

    mark: Mark
    check: str
    found: str
    advice: str


class Privacy:
    """Removes private data from texts. ``anonymous``: the texts are for a public bug report.

    Secrets are always removed; for a bug report also labels, ids, paths, the last characters of tokens, the values of
    wrong settings, and Kimi's own words.
    """

    def __init__(self, config: Config, *, anonymous: bool) -> None:
        self.anonymous = anonymous
        self._secrets: list[str] = []
        self._labels: dict[str, str] = {}
        self._ids: list[str] = []
        self._learn_secrets(config.secrets)
        self.learn(config.credentials)
        path = database_path(config)
        name = (str(path), "the database file") if path else (database_name(config), "the PostgreSQL database")
        self._paths = [name, (str(Path.home()), "~")]

    def learn(self, credentials: Sequence[Credential]) -> None:
        """Removes the private data of these accounts, too."""
        for c in credentials:
            self._learn_secrets(c.secrets)
            self.label(c.label)
            for value in (c.id, c.user_id, c.device_id, c.session_id):
                if value is not None and value not in self._ids:
                    self._ids.append(value)

    def _learn_secrets(self, secrets: Sequence[str]) -> None:
        self._secrets += (secret for secret in secrets if len(secret) >= 4 and secret not in self._secrets)

    @property
    def private(self) -> list[str]:
        """Secrets and ids that must not be in a file for a bug report."""
        return [*self._secrets, *self._ids]

    def credentials(self, credentials: Sequence[Credential]) -> tuple[Credential, ...]:
        """The credentials with labels that may be shown."""
        if not self.anonymous:
            return tuple(credentials)
        return tuple(replace(c, label=self.label(c.label)) for c in credentials)

    def label(self, label: str) -> str:
        """The label that may be shown instead."""
        if label not in self._labels.values():
            self._labels.setdefault(label, f"account {len(self._labels) + 1}")
        return self._labels.get(label, label) if self.anonymous else label

    def hint(self, credential: Credential) -> str:
        """A name of the account: its label and, unless ``anonymous``, the end of its token."""
        return credential.label if self.anonymous else credential.hint

    def line(self, finding: Finding, language: Language) -> Line:
        advice = "" if finding.advice is None else written(finding.advice, language)
        found = written(finding.found, language)
        return Line(finding.mark, finding.check, self.clean_text(found), self.clean_text(advice))

    def clean_text(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        text = _USER_INFO.sub("//", _JWT.sub("[secret]", text))
        if self.anonymous:
            text = self._anonymous(text)
        # Texts from Kimi may contain anything, also control sequences of terminals.
        return "".join(c if c.isprintable() else " " for c in text)

    def _anonymous(self, text: str) -> str:
        text = re.sub(r" ?\(Kimi says: .*\)", "", text, flags=re.DOTALL)
        text = re.sub(r"^([A-Z_]+)=.*: (?=expected )", r"\1: ", text, flags=re.DOTALL)
        text = re.sub(r"the label '[^']*'", "a label", text)
        for label, name in self._labels.items():
            text = re.sub(rf"(?<![\w.-]){re.escape(label)}(?=: )", name, text)
        for private in self._ids:
            text = text.replace(private, "[id]")
        for path, name in self._paths:
            text = text.replace(path, name) if len(path) > 1 else text
        text = _DATABASE_NAMES.sub(r"\1 [name]", text)
        return re.sub(r"'/[^']*'", "'a path'", text)


def database_path(config: Config) -> Path | None:
    """The file of a SQLite database. None for PostgreSQL."""
    if not config.database_url.startswith("sqlite:///"):
        return None
    return Path(config.database_url.removeprefix("sqlite:///").partition("?")[0])


def database_name(config: Config) -> str:
    """The database without user and password: the path of the file, or name and host of a PostgreSQL database."""
    path = database_path(config)
    if path is not None:
        return str(path)
    parts = urlsplit(config.database_url)
    return f"PostgreSQL's {parts.path.strip('/')} at {parts.netloc.rpartition('@')[2] or 'a local socket'}"
