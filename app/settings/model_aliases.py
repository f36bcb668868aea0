"""Other names for models, so that programs with fixed model names work. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelAlias:
    """``name`` stands for the model ``target``. ``*`` in a name stands for any characters."""

    name: str
    target: str

    @property
    def is_pattern(self) -> bool:
        return "*" in self.name


def parse_aliases(text: str) -> tuple[ModelAlias, ...]:
    """``gpt-4o=kimi-k2.6,claude-*=kimi-k2.6,*=k2``. Raises ValueError."""
    entries = [part.strip() for part in text.split(",") if part.strip()]
    aliases = []
    for entry in entries:
        name, _, target = (part.strip() for part in entry.partition("="))
        if not _is_name(name) or not _is_name(target) or "*" in target:
            raise ValueError(
                "expected name=model, comma-separated, such as gpt-4o=kimi-k2.6,claude-*=kimi-k2.6,*=k2; "
                "* is for names only"
            )
        aliases.append(ModelAlias(name, target))
    if len({alias.name for alias in aliases}) < len(aliases):
        raise ValueError("a name has two models")
    return tuple(aliases)


def _is_name(text: str) -> bool:
    return bool(re.fullmatch(r"[\x21-\x7e]{1,128}", text))


class ModelAliases:
    """Exact names count first, also where a model is called so; patterns count for names that no model has, those
    with the most other characters first."""

    def __init__(self, aliases: Sequence[ModelAlias]) -> None:
        self.exact = {alias.name: alias.target for alias in aliases if not alias.is_pattern}
        self._patterns = sorted((a for a in aliases if a.is_pattern), key=lambda a: -len(a.name.replace("*", "")))
        self.targets = frozenset(alias.target for alias in aliases)

    def of_name(self, name: str) -> str | None:
        """The model that an exact name stands for."""
        return self.exact.get(name)

    def of_pattern(self, name: str) -> str | None:
        """The model that a name stands for that no model has."""
        return next((a.target for a in self._patterns if matches(a.name, name)), None)


def matches(pattern: str, name: str) -> bool:
    """``*`` in the pattern stands for any characters. The name may be anything that a client has sent: a regular
    expression with two ``.*`` would take hours for a megabyte."""
    begin, *parts = pattern.split("*")
    if not parts:
        return name == pattern
    *middle, end = parts
    at, last = len(begin), len(name) - len(end)
    if at > last or not name.startswith(begin) or not name.endswith(end):
        return False
    for part in middle:
        at = name.find(part, at, last)
        if at < 0:
            return False
        at += len(part)
    return True
