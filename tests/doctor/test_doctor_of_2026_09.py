"""What the doctor says of Kimi as it is since September 2026: sites, lists of models, refused forms, quota."""

import re
from pathlib import Path

import pytest

from tests.running import Running, Simulator, mint
from tests.running.commands import Surgery

pytestmark = pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)


@pytest.fixture
def surgery(running: Running, simulator: Simulator, tmp_path: Path) -> Surgery:
    running.copy_tables_to(tmp_path / "doctor.db")
    return Surgery(simulator.url, tmp_path)


def token(site: str = "kimi.ai") -> str:
    """An access token: a process would renew another one, and only the first test is about that."""
    return f"home={mint('alice', site='kimi.ai' if site == 'kimi.ai' else 'kimi.com')}"


def test_a_healthy_gateway_has_no_problem(surgery: Surgery, simulator: Simulator) -> None:
    refresh_token = mint("alice", 7_776_000, "refresh", site="kimi.ai")
    visit = surgery.visit(KIMI_PROTOCOL="connect", KIMI_TOKENS=f"home={refresh_token}")
    assert (visit.code, visit.lines[-1]) == (0, "0 problem(s), 0 warning(s)")
    models = visit.of("models", "ok")
    assert "names 4: k2d6-chat, k28-agent-preview, k3-agent, k3-agent-swarm" in models
    # The list decides how the trial turn is asked.
    assert simulator.turns()[-1].body["scenario"] == "SCENARIO_CHAT"


def test_a_site_without_a_list(surgery: Surgery, simulator: Simulator) -> None:
    simulator.knobs(catalogue="absent")
    visit = surgery.visit(KIMI_PROTOCOL="connect", KIMI_TOKENS=token())
    assert visit.code == 0
    assert "the models that the gateway knows itself are served all the same" in visit.of("models", "warning")
    assert "answered" in visit.of("turn", "ok")


@pytest.mark.parametrize(("site", "scenario"), [("kimi.com", "SCENARIO_K2D5"), ("kimi.ai", "SCENARIO_CHAT")])
def test_a_form_that_is_refused(surgery: Surgery, simulator: Simulator, site: str, scenario: str) -> None:
    """Although the site's own list names it."""
    simulator.knobs(site=site, refuse_forms=scenario)
    visit = surgery.visit(KIMI_PROTOCOL="connect", KIMI_TOKENS=token(site))
    assert visit.code == 0 and "answered" in visit.of("turn", "ok")
    assert f"Kimi refused the form '{scenario} k2d6-chat' 1 times" in visit.of("unknown", "warning")
    simulator.knobs(refuse_forms="SCENARIO_K2D5,k2d6-chat")
    visit = surgery.visit(KIMI_PROTOCOL="connect", KIMI_TOKENS=token(site))
    assert "Kimi refuses this request" in visit.of("turn", "problem")


@pytest.mark.parametrize(("site", "issued"), [("kimi.com", "kimi.ai"), ("kimi.ai", "kimi.com")])
def test_a_token_of_the_other_site(surgery: Surgery, simulator: Simulator, site: str, issued: str) -> None:
    simulator.knobs(site=site)
    visit = surgery.visit(KIMI_PROTOCOL="connect", KIMI_TOKENS=token(issued))
    assert visit.code == 1
    problem = visit.of("turn", "problem")
    assert f"{issued} has issued this token" in problem and f"token@{issued}" in problem


def test_two_sites_are_examined_one_after_the_other(surgery: Surgery, simulator: Simulator) -> None:
    simulator.knobs(site="by_host")
    other = simulator.url.replace("127.0.0.1", "localhost")
    entries = f"a={mint('alice', site='kimi.com')}@{simulator.url},b={mint('bob', site='kimi.ai')}@{other}"
    visit = surgery.visit(KIMI_PROTOCOL="connect", KIMI_TOKENS=entries, KIMI_BASE_URL="")
    turns = visit.of("turn", "ok").splitlines()
    assert [line.split(",")[0].split()[-1] for line in turns] == [
        simulator.url.removeprefix("http://"),
        other.removeprefix("http://"),
    ]
    assert [turn.account for turn in simulator.turns()] == ["alice", "bob"]


def test_an_auth_address_of_the_other_site(surgery: Surgery, simulator: Simulator) -> None:
    visit = surgery.visit(
        KIMI_TOKENS=token(),
        KIMI_BASE_URL="",
        KIMI_AUTH_URL="https://auth.kimi.com",
        KIMI_PROTOCOL="connect",
        CONNECT_TIMEOUT_S="0.1",
    )
    assert "accounts of kimi.ai are used, but KIMI_AUTH_URL is on kimi.com" in visit.of("settings", "warning")


@pytest.mark.parametrize("stats", ["free", "paid", "strings"])
def test_what_is_left_of_the_credits(surgery: Surgery, simulator: Simulator, stats: str) -> None:
    simulator.knobs(stats=stats)
    visit = surgery.visit(KIMI_PROTOCOL="connect", KIMI_TOKENS=token())
    assert "home: Kimi says: 59% of the credits left (renews 2030-01-14)" in visit.of("quota", "ok")
    assert ("of the limit for 5 hours left" in visit.of("quota")) == (stats != "free")
    # Ten minutes at least are between two questions.
    assert "59%" in surgery.visit(KIMI_PROTOCOL="connect", KIMI_TOKENS=token()).of("quota", "ok")
    assert len(simulator.requests("GetSubscriptionStats")) == 1


def test_a_spent_quota(surgery: Surgery, simulator: Simulator) -> None:
    """Plain chat needs no credits, so the trial turn is answered."""
    simulator.knobs(used_ratio=1)
    visit = surgery.visit(KIMI_PROTOCOL="connect", KIMI_TOKENS=token())
    assert visit.code == 0 and "answered" in visit.of("turn", "ok")
    assert "0% of the credits left" in visit.of("quota", "warning")
    assert "plain chat does not -> wait until they are renewed" in visit.of("quota", "warning")


def test_a_site_that_says_nothing_about_credits(surgery: Surgery, simulator: Simulator) -> None:
    simulator.knobs(stats="absent")
    visit = surgery.visit(KIMI_PROTOCOL="connect", KIMI_TOKENS=token())
    assert visit.code == 0 and "Kimi does not say what is left" in visit.of("quota", "skipped")


def test_the_level_in_a_token_is_shown(surgery: Surgery) -> None:
    assert re.search(
        r"home \(….{4}\), free: ", surgery.visit(KIMI_PROTOCOL="connect", KIMI_TOKENS=token()).of("account")
    )
