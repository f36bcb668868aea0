"""How functions are called in a text, and which function a name in an answer means.

A label is the name alone, or ``NAMESPACE.NAME``; where a function of that joined name exists too, ``NAMESPACE/NAME``.
A label is looked up among those that were declared, never taken apart: names may contain dots, slashes and colons.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.chat import Tool

# What a name may be made of: no space, no bracket, no quote, nothing that a Markdown mark could be confused with.
NAME = re.compile(r"""[^\s\[\]【】［］`*"'<>|\x00-\x1f\x7f]{1,128}""")
_NUMBERED = re.compile(r"(.*?)\s*[:#]\s*([0-9]{1,6})", re.DOTALL)
_SEPARATORS = re.compile(r"[-_.]")
# Prefixes that models add to a name or leave out.
_PREFIX = re.compile(r"(?:functions|tools)\.|mcp__.+?__", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Named:
    """What the heading of a call names."""

    # As it was written, without its number.
    label: str
    number: int | None
    # None: no function of that name was declared.
    tool: Tool | None


class Names:
    """The labels of the declared functions."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        plain = {tool.name for tool in tools if tool.namespace is None}
        self._labels = {tool: _label(tool, plain) for tool in tools}
        self._tools = {label: tool for tool, label in self._labels.items()}
        # Simplified name → the tools that it may mean.
        self._simple: dict[str, set[str]] = {}
        for label in self._tools:
            for form in {_simplified(label), _simplified(_PREFIX.sub("", label, count=1))}:
                self._simple.setdefault(form, set()).add(label)

    def __len__(self) -> int:
        return len(self._tools)

    @property
    def labels(self) -> list[str]:
        """In the order in which the functions were declared."""
        return list(self._tools)

    def label(self, tool: Tool) -> str:
        return self._labels[tool]

    def find(self, name: str) -> Tool | None:
        """The function that a name means: exactly, or as the only one that is equal without case, hyphens,
        underscores, dots and the prefixes that models add. Never the most similar one."""
        if name in self._tools:
            return self._tools[name]
        for form in (_simplified(name), _simplified(_PREFIX.sub("", name, count=1))):
            found = self._simple.get(form, ())
            if len(found) == 1:
                (label,) = found
                return self._tools[label]
        return None

    def named(self, argument: str) -> Named:
        """What ``NAME:N`` means: the number follows the last colon, and may be missing."""
        numbered = _NUMBERED.fullmatch(argument)
        if numbered is None:
            return Named(argument, None, self.find(argument))
        label, number = numbered[1], int(numbered[2])
        if label not in self._tools and argument in self._tools:
            return Named(argument, None, self._tools[argument])
        return Named(label, number, self.find(label))


def _label(tool: Tool, plain: set[str]) -> str:
    if tool.namespace is None:
        return tool.name
    joined = f"{tool.namespace}.{tool.name}"
    return joined if joined not in plain else f"{tool.namespace}/{tool.name}"


def _simplified(name: str) -> str:
    return _SEPARATORS.sub("", name).lower()
