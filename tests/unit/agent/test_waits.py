"""How long the loops wait, and for how long a poll is held."""

from __future__ import annotations

import pytest

from backhaul_agent.backoff import Backoff
from backhaul_agent.errors import LinkLostError, LinkRefusedError, Loss
from backhaul_agent.hold import PROBE_AFTER_S, PROBE_EARLY_AFTER_S, Hold

LOST = LinkLostError("no answer")


def test_waits_grow_up_to_a_minute() -> None:
    backoff = Backoff(draw=lambda: 1.0)

    waits = [backoff.delay_after(LOST) for _ in range(9)]

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_waits_are_drawn_from_the_full_interval() -> None:
    assert Backoff(draw=lambda: 0.0).delay_after(LOST) == 0.0
    assert Backoff(draw=lambda: 0.25).delay_after(LOST) == 0.25


def test_success_starts_the_waits_again() -> None:
    backoff = Backoff(draw=lambda: 1.0)
    backoff.delay_after(LOST)
    backoff.delay_after(LOST)

    backoff.reset()

    assert backoff.delay_after(LOST) == 1.0


def test_a_year_without_a_network_overflows_nothing() -> None:
    backoff = Backoff(draw=lambda: 1.0)

    assert max(backoff.delay_after(LOST) for _ in range(5000)) == 60.0


@pytest.mark.parametrize(("said", "at_least"), [(30.0, 30.0), (1e9, 3600.0)])
def test_retry_after_is_obeyed_within_reason(said: float, at_least: float) -> None:
    wait = Backoff(draw=lambda: 0.5).delay_after(LinkLostError("busy", retry_after_s=said))

    assert at_least <= wait <= at_least + 1.0


def test_refusal_waits_long() -> None:
    assert Backoff(draw=lambda: 0.5).delay_after(LinkRefusedError("no")) == 60.0


def test_the_shortest_hold_wins() -> None:
    hold = Hold(25.0, now_s=0.0)

    hold.note_answer(10.0, now_s=0.0)

    assert hold.seconds == 10.0


@pytest.mark.parametrize("age_s", [6.0, 10.0, 12.4])
def test_path_that_cuts_early_is_known_when_it_does_so_twice(age_s: float) -> None:
    hold = Hold(25.0, now_s=0.0)

    hold.note_loss(LinkLostError("cut", loss=Loss.CUT, age_s=age_s), now_s=0.0)
    after_one = hold.seconds
    hold.note_loss(LinkLostError("cut", loss=Loss.CUT, age_s=age_s + 0.3), now_s=12.0)

    assert after_one == 25.0
    assert 5.0 <= hold.seconds < age_s


@pytest.mark.parametrize(
    ("age_s", "hold_s"), [(4.0, 3.2), (1.5, 1.2), (1.0, 0.0)], ids=["held", "barely", "not held"]
)
def test_path_that_cuts_very_early_is_known_when_it_does_so_twice(
    age_s: float, hold_s: float
) -> None:
    hold = Hold(25.0, now_s=0.0)

    hold.note_loss(LinkLostError("cut", loss=Loss.CUT, age_s=age_s), now_s=0.0)
    after_one = hold.seconds
    hold.note_loss(LinkLostError("cut", loss=Loss.CUT, age_s=age_s + 0.1), now_s=5.0)

    assert after_one == 25.0
    assert hold_s <= hold.seconds < age_s
    assert hold.seconds < hold_s + 0.1


def test_early_cuts_at_different_ages_are_no_path() -> None:
    hold = Hold(25.0, now_s=0.0)

    for age_s in (4.0, 2.5, 1.2, 3.1):
        hold.note_loss(LinkLostError("cut", loss=Loss.CUT, age_s=age_s), now_s=0.0)

    assert hold.seconds == 25.0


def test_hold_of_a_path_that_cut_early_grows_again_soon() -> None:
    hold = Hold(25.0, now_s=0.0)
    for _ in range(2):
        hold.note_loss(LinkLostError("cut", loss=Loss.CUT, age_s=1.0), now_s=0.0)

    hold.note_answer(25.0, now_s=PROBE_EARLY_AFTER_S - 1)
    before = hold.seconds
    hold.note_answer(25.0, now_s=PROBE_EARLY_AFTER_S)

    assert (before, hold.seconds) == (0.0, 1.0)


def test_cuts_at_different_ages_or_with_an_answer_between_are_no_path() -> None:
    hold = Hold(25.0, now_s=0.0)

    hold.note_loss(LinkLostError("cut", loss=Loss.CUT, age_s=6.0), now_s=0.0)
    hold.note_loss(LinkLostError("cut", loss=Loss.CUT, age_s=11.0), now_s=0.0)
    hold.note_answer(25.0, now_s=0.0)
    hold.note_loss(LinkLostError("cut", loss=Loss.CUT, age_s=11.0), now_s=0.0)
    hold.note_loss(LinkLostError("cut", loss=Loss.CUT, age_s=0.1), now_s=0.0)
    hold.note_loss(LinkLostError("cut", loss=Loss.CUT, age_s=0.1), now_s=0.0)

    assert hold.seconds == 25.0


def test_path_that_cuts_held_polls_shortens_the_hold() -> None:
    hold = Hold(25.0, now_s=0.0)

    hold.note_loss(LinkLostError("cut", loss=Loss.CUT, age_s=15.0), now_s=0.0)

    assert hold.seconds == 12.0


def test_refused_connection_says_nothing_about_the_path() -> None:
    hold = Hold(25.0, now_s=0.0)

    hold.note_loss(LinkLostError("refused", age_s=0.1), now_s=0.0)

    assert hold.seconds == 25.0


@pytest.mark.parametrize("loss", [Loss.NOT_SENT, Loss.OTHER, Loss.SERVER_FAILED])
def test_connection_that_took_long_to_fail_leaves_the_hold(loss: Loss) -> None:
    hold = Hold(20.0, now_s=0.0)

    for _ in range(4):
        hold.note_loss(LinkLostError("connecting took too long", loss=loss, age_s=10.1), now_s=0.0)

    assert hold.seconds == 20.0


def test_path_that_swallows_held_polls_shortens_the_hold() -> None:
    hold = Hold(25.0, now_s=0.0)

    hold.note_loss(LinkLostError("silence", loss=Loss.TIMED_OUT, age_s=40.0), now_s=0.0)

    assert hold.seconds == 20.0


def test_longer_hold_is_tried_again_after_a_quiet_hour() -> None:
    hold = Hold(25.0, now_s=0.0)
    hold.note_loss(LinkLostError("cut", loss=Loss.CUT, age_s=15.0), now_s=0.0)

    hold.note_answer(25.0, now_s=PROBE_AFTER_S - 1)
    before = hold.seconds
    hold.note_answer(25.0, now_s=PROBE_AFTER_S)

    assert before == 12.0
    assert hold.seconds == 18.0
