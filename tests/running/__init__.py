"""The helpers of all tests: processes, databases, clients. Tests import from here, never from one another."""

from tests.running.answers import Answer, ask, read_stream
from tests.running.databases import Database, PostgresDatabase, SqliteDatabase
from tests.running.gateway import SERVERS, Gateway
from tests.running.leaks import CANARY, leaks_in, secrets_in
from tests.running.processes import ROOT, Process, seldom, wait_until
from tests.running.profiles import (
    BOTH_DATABASES,
    CONNECT_ONLY,
    EACH_GENERATION,
    EACH_GENERATION_AND_POSTGRESQL,
    EVERY_PROFILE,
    ON_POSTGRESQL,
    PROFILES,
    Profile,
)
from tests.running.raw_client import RawClient
from tests.running.running import Running
from tests.running.shared import BLUNT, QUICK, SHIPPED, Share, SharedGateways
from tests.running.simulator import CONNECT_STREAM, EVENT_STREAM, SentTurn, Simulator, mint
from tests.running.wire import frame

__all__ = [
    "BLUNT",
    "BOTH_DATABASES",
    "CANARY",
    "CONNECT_ONLY",
    "CONNECT_STREAM",
    "EACH_GENERATION",
    "EVENT_STREAM",
    "EVERY_PROFILE",
    "EACH_GENERATION_AND_POSTGRESQL",
    "ON_POSTGRESQL",
    "PROFILES",
    "QUICK",
    "ROOT",
    "SERVERS",
    "SHIPPED",
    "Answer",
    "Database",
    "Gateway",
    "PostgresDatabase",
    "Process",
    "Profile",
    "RawClient",
    "Running",
    "SentTurn",
    "Share",
    "SharedGateways",
    "Simulator",
    "SqliteDatabase",
    "ask",
    "frame",
    "leaks_in",
    "mint",
    "read_stream",
    "secrets_in",
    "seldom",
    "wait_until",
]
