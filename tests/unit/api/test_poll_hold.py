"""How long a poll is held."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backhaul_api.polling.poll import choose_hold
from backhaul_api.settings import HOLD_JITTER


@given(asked_s=st.floats(0, 600), allowed_s=st.floats(0, 600))
def test_hold_is_never_longer_than_the_agent_can_stand(asked_s: float, allowed_s: float) -> None:
    hold_s = choose_hold(asked_s=asked_s, allowed_s=allowed_s)

    assert 0 <= hold_s <= asked_s
    assert hold_s <= allowed_s * (1 + HOLD_JITTER)
    assert hold_s >= min(asked_s, allowed_s) * (1 - HOLD_JITTER) * 0.999


def test_holds_are_spread() -> None:
    holds = {choose_hold(asked_s=600, allowed_s=25) for _ in range(200)}

    assert len(holds) == 200
    assert min(holds) < 24 < 26 < max(holds)
