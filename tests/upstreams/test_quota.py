"""What Kimi says of credits, read with whatever is missing or spelt otherwise (``kimi-protocol-2.md`` 5.6)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.upstreams.kimi.quota import Quota, parse_quota
from tests.running.made_up_turns import same_every_time


@pytest.mark.parametrize(
    ("stats", "quota", "text"),
    [
        ({}, Quota(None, "", {}), "nothing about credits"),
        (None, Quota(None, "", {}), "nothing about credits"),
        # A ratio that is left out is 0, as proto3's JSON does.
        (
            {"subscriptionBalance": {"expireTime": "2030-01-14T08:00:00Z"}},
            Quota(1.0, "2030-01-14T08:00:00Z", {}),
            "100% of the credits left (renews 2030-01-14)",
        ),
        ({"subscriptionBalance": {"amountUsedRatio": "0.75"}}, Quota(0.25, "", {}), "25% of the credits left"),
        ({"subscriptionBalance": {"amountUsedRatio": 1.2}}, Quota(0.0, "", {}), "0% of the credits left"),
        ({"subscriptionBalance": {"amountUsedRatio": "much"}}, Quota(None, "", {}), "nothing about credits"),
        ({"ratelimit5h": {"enabled": True}}, Quota(None, "", {"5 hours": 1.0}), "100% of the limit for 5 hours left"),
        ({"ratelimit7d": {"enabled": False, "ratio": 1}}, Quota(None, "", {}), "nothing about credits"),
    ],
)
def test_each_part_may_be_missing_or_text(stats: object, quota: Quota, text: str) -> None:
    assert parse_quota(stats) == quota
    assert str(quota) == f"Kimi says: {text}"
    assert quota.is_spent == text.startswith("0%")


def test_whatever_comes_is_read() -> None:
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=2),
    )
    names = ("subscriptionBalance", "ratelimit5h", "amountUsedRatio", "expireTime", "ratio", "enabled")
    fields = st.dictionaries(st.sampled_from(names), values | st.dictionaries(st.sampled_from(names), values))

    @same_every_time(200)
    @given(fields)
    def reads(stats: object) -> None:
        quota = parse_quota(stats)
        assert str(quota).startswith("Kimi says: ")
        assert quota.left is None or 0 <= quota.left <= 1

    reads()
