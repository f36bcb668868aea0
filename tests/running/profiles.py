"""The Kimis to test against, and the marks that run a test on several of them or on several databases."""

from dataclasses import dataclass

import pytest

from app.simulator.tokens import SiteName


@dataclass(frozen=True)
class Profile:
    """A Kimi to test against: what the simulator is, and what the gateway is asked for there."""

    name: str
    protocol: str
    model: str
    other_model: str
    thinking_model: str
    # The site that its tokens name; None: they are of the time before tokens did.
    site: SiteName | None = None

    @property
    def speaks_connect(self) -> bool:
        return self.protocol == "connect"


# `all` is what the gateway meets where nothing is said: both generations, chosen by the model's row.
PROFILES = {
    profile.name: profile
    for profile in (
        Profile("all", "auto", "k2", "k1.5", "k1.5-thinking"),
        Profile("sse-2024", "sse", "k2", "k1.5", "k1.5-thinking"),
        Profile("sse-2025", "sse", "k2", "k1.5", "k1.5-thinking"),
        Profile("connect-2025", "connect", "k2", "k2-nosearch", "kimi-k2.5-thinking"),
        Profile("connect-2026", "connect", "kimi-k2.6", "kimi-k2.5", "kimi-k2.6-thinking"),
        Profile("connect-2026-09", "connect", "kimi-k2.6", "kimi-k3", "kimi-k2.6-thinking", "kimi.ai"),
    )
}


# The contract cases run against the newest profile of each generation, and those that are about the frames against
# every profile. `connect-2026` is a site that does not resume answers: what depends on that names it.
EVERY_PROFILE = pytest.mark.parametrize(
    "profile", ["sse-2024", "sse-2025", "connect-2025", "connect-2026", "connect-2026-09"], indirect=True
)


EACH_GENERATION = pytest.mark.parametrize("profile", ["sse-2025", "connect-2026-09"], indirect=True)


# What lives in the database: each generation on SQLite, and one of them on PostgreSQL, which sees no difference.
EACH_GENERATION_AND_POSTGRESQL = pytest.mark.parametrize(
    ("profile", "database"),
    [("sse-2025", "sqlite"), ("connect-2026-09", "sqlite"), ("connect-2026-09", "postgresql")],
    indirect=True,
)


BOTH_DATABASES = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


ON_POSTGRESQL = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


CONNECT_ONLY = pytest.mark.parametrize("profile", ["connect-2025", "connect-2026-09"], indirect=True)
