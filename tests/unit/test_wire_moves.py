"""The states of a job: every state with every event, against a table written out by hand."""

from __future__ import annotations

import pytest

from backhaul.wire.jobs import (
    ACTIVE_STATES,
    MOVES,
    OUTCOME_EVENTS,
    TERMINAL_STATES,
    IllegalMoveError,
    JobEvent,
    JobState,
    Outcome,
    move,
)

# A row for each state, a column for each event; a dot is a move that does not exist.
TABLE = """
           accept   reject   expire  start   retry  succeed   finish_incomplete fail   cancel    vanish
queued     accepted rejected expired .       .      .         .                 failed cancelled .
accepted   .        .        .       running queued .         .                 failed cancelled lost
running    .        .        .       .       queued succeeded incomplete        failed cancelled lost
succeeded  .        .        .       .       .      .         .                 .      .         .
incomplete .        .        .       .       .      .         .                 .      .         .
failed     .        .        .       .       .      .         .                 .      .         .
cancelled  accepted .        .       .       .      .         .                 .      .         .
rejected   .        .        .       .       .      .         .                 .      .         .
expired    accepted .        .       .       .      .         .                 .      .         .
lost       .        .        .       running .      succeeded incomplete        failed cancelled .
"""  # noqa: E501


def parse_table() -> dict[tuple[str, str], str]:
    """Read the table: (state, event) to the next state, or to a dot."""
    header, *rows = TABLE.strip().splitlines()
    events = header.split()
    return {
        (state, event): cell
        for state, *cells in map(str.split, rows)
        for event, cell in zip(events, cells, strict=True)
    }


EXPECTED = parse_table()


def test_table_names_every_state_and_every_event() -> None:
    assert set(EXPECTED) == {(state.value, event.value) for state in JobState for event in JobEvent}


@pytest.mark.parametrize("event", JobEvent)
@pytest.mark.parametrize("state", JobState)
def test_move_is_the_one_in_the_table(state: JobState, event: JobEvent) -> None:
    expected = EXPECTED[state.value, event.value]

    if expected == ".":
        with pytest.raises(IllegalMoveError, match=f"a job that is {state} cannot {event}"):
            move(state, event)
    else:
        assert move(state, event) == expected


def test_jobs_are_over_in_these_states() -> None:
    assert set(ACTIVE_STATES) == {"queued", "accepted", "running"}
    assert set(TERMINAL_STATES) == set(JobState) - set(ACTIVE_STATES)


def test_only_what_the_server_guessed_is_an_end_that_changes() -> None:
    changing = {JobState.LOST, JobState.EXPIRED, JobState.CANCELLED}

    assert {state for state, _ in MOVES} & TERMINAL_STATES == changing


def test_every_outcome_ends_a_running_job_in_the_state_of_its_name() -> None:
    ends = {outcome: move(JobState.RUNNING, OUTCOME_EVENTS[outcome]) for outcome in Outcome}

    assert {outcome.value: state.value for outcome, state in ends.items()} == {
        outcome.value: outcome.value for outcome in Outcome
    }


def test_late_news_of_a_lost_job_can_have_every_outcome() -> None:
    for outcome in Outcome:
        assert move(JobState.LOST, OUTCOME_EVENTS[outcome]) == outcome.value
