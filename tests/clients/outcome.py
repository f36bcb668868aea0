"""What came of a client's exercise."""

from dataclasses import dataclass, field

from tests.clients.catalogue import Client


@dataclass
class Outcome:
    """``also``: what it has proven beside the facts. ``reads``: what a person reads, by what happened.
    ``failure``: what went wrong, or empty."""

    client: Client
    version: str = ""
    proved: set[str] = field(default_factory=set)
    also: list[str] = field(default_factory=list)
    reads: dict[str, str] = field(default_factory=dict)
    install_s: float = 0
    exercise_s: float = 0
    failure: str = ""
