"""`backhaul simulate`: drives a server with made-up agents, and says how it fared.

Exit codes: 0 all well, 1 something was lost, doubled or stuck, or an error, 2 bad input, 130 ended
with Ctrl-C and all well so far.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
from typing import Annotated

import typer

from backhaul import settings
from backhaul.async_client import AsyncClient
from backhaul.cli import connection, output
from backhaul.cli.failures import FAILED, INTERRUPTED, BadInputError
from backhaul.cli.output import AsJson
from backhaul.cli.values import parse_duration
from backhaul.errors import BackhaulError
from backhaul.wire.wording import render_count
from backhaul_agent.errors import AgentError
from backhaul_agent.simulation.figures import Report
from backhaul_agent.simulation.link import Target, find_target
from backhaul_agent.simulation.operator_side import Plan, SimulationOperator
from backhaul_agent.simulation.run import Simulation, TooManyAgentsError, make_room_for
from backhaul_agent.simulation.schedules import HIGHEST_RATE, MOST_PER_DAY
from backhaul_agent.simulation.show import Onlooker, print_report

_RAMP_PER_S = 100.0
"""Agents that are started in a second, where no ramp was given."""

_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


def simulate(  # noqa: PLR0913, PLR0917 (each is an option of the command line)
    agents: Annotated[int, typer.Option(min=1, max=50_000, help="How many to simulate.")] = 100,
    server: Annotated[
        str | None, typer.Option(help="The server's URL; default: where you are signed in.")
    ] = None,
    duration: Annotated[
        str, typer.Option(help="How long they live once all are there, like 90s or 10m.")
    ] = "1m",
    ramp: Annotated[
        str | None, typer.Option(help="Over how long they are started; default: 100 a second.")
    ] = None,
    backups_per_day: Annotated[
        float | None,
        typer.Option(
            min=1 / 7,
            max=MOST_PER_DAY,
            help="Of each host; default: a mix, most of them once a day.",
        ),
    ] = None,
    speed: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=10_000,
            help="Times as fast a life: so many times as many fires, jobs so many times as short.",
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Repeats what is drawn, not the timing.")] = 1,
    prefix: Annotated[
        str, typer.Option(help="What the names of all that is made begin with.")
    ] = "sim",
    clean: Annotated[
        bool, typer.Option("--clean", help="Remove what simulations have made, and do no more.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Also on a server that holds other hosts.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Simulate a fleet: agents that really speak with a server, and run no restic.

    They enrol, hold their polls, fire their schedules and report made-up jobs; at the end, what
    happened is compared with what the server says. For sizing, on a server that is for nothing
    else. The credentials are those of all commands.
    """
    if (per_day := (backups_per_day or HIGHEST_RATE) * speed) > MOST_PER_DAY:
        raise BadInputError(
            f"--speed: it makes {per_day:,.0f} backups of a host in a day, and {MOST_PER_DAY:,} "
            "can be had; choose less, or fewer --backups-per-day."
        )
    plan = Plan(
        prefix=_check_prefix(prefix),
        agents=agents,
        per_day=backups_per_day,
        speed=speed,
        seed=seed,
    )
    seconds = parse_duration(duration, option="--duration")
    ramp_s = agents / _RAMP_PER_S if ramp is None else parse_duration(ramp, option="--ramp")
    profile = connection.find_signed_in(server)
    # What an agent writes into its log is counted here.
    logging.getLogger("backhaul_agent").setLevel(logging.CRITICAL)
    if clean:
        removed = asyncio.run(_clean(profile, plan.prefix))
        if as_json:
            output.print_json({"hosts": removed})
        else:
            output.say(f"{render_count(removed, 'simulated host')} removed.")
        return
    report = asyncio.run(_run(profile, plan, seconds=seconds, ramp_s=ramp_s, may_share=yes))
    if as_json:
        output.print_json(report)
    else:
        print_report(report)
    if not report.is_good:
        raise typer.Exit(FAILED)
    if report.was_interrupted:
        raise typer.Exit(INTERRUPTED)


def _check_prefix(prefix: str) -> str:
    if not _PREFIX.fullmatch(prefix):
        raise BadInputError(
            f"--prefix: {prefix!r} is no beginning of a host's name: letters, digits, dot, "
            "underscore and hyphen, at most 40."
        )
    return prefix


async def _run(
    profile: settings.Profile, plan: Plan, *, seconds: float, ramp_s: float, may_share: bool
) -> Report:
    try:
        make_room_for(plan.agents)
    except TooManyAgentsError as error:
        raise BadInputError(f"--agents: {error}.") from error
    async with _open(profile) as client:
        await _refuse_others(client, plan.prefix, may_share=may_share)
        simulation = Simulation(
            plan=plan,
            target=_look_up(profile),
            client=client,
            seconds=seconds,
            ramp_s=ramp_s,
        )
        with Onlooker(simulation).looking():
            return await _interruptible(simulation)


async def _interruptible(simulation: Simulation) -> Report:
    """Run; the first Ctrl-C makes peace, the second one leaves everything as it is."""
    loop, running = asyncio.get_running_loop(), asyncio.ensure_future(simulation.run())

    def interrupt() -> None:
        if simulation.was_interrupted or not simulation.has_begun:
            running.cancel()
        simulation.interrupt()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        return await running
    except asyncio.CancelledError:
        output.note(f"Stopped. {_hint(simulation)}")
        raise typer.Exit(INTERRUPTED) from None
    except AgentError as error:
        # What a link says, in the words that the command line knows.
        raise BackhaulError(f"{error}. {_hint(simulation)}") from error
    except BackhaulError:
        output.note(_hint(simulation))
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _hint(simulation: Simulation) -> str:
    prefix = simulation.plan.prefix
    return f"What was made is left: `backhaul simulate --clean --prefix {prefix}` removes it."


async def _refuse_others(client: AsyncClient, prefix: str, *, may_share: bool) -> None:
    """Refuse a server that is used for something else.

    Raises:
        BadInputError: see there.
    """
    operator = SimulationOperator(client, prefix)
    own, others = await operator.count_hosts()
    if own or await operator.has_leftovers():
        raise BadInputError(
            f"An earlier simulation with --prefix {prefix} has left something, of which "
            f"{own:,} hosts: `backhaul simulate --clean --prefix {prefix}` removes it."
        )
    if others and not may_share:
        raise BadInputError(
            f"The server holds {render_count(others, 'host')} that no simulation made. "
            "Use one that is for nothing else, or say --yes."
        )


async def _clean(profile: settings.Profile, prefix: str) -> int:
    async with _open(profile) as client:
        return await SimulationOperator(client, prefix).clean()


def _open(profile: settings.Profile) -> AsyncClient:
    return AsyncClient(profile.url, token=profile.token, ca_file=profile.ca_file)


def _look_up(profile: settings.Profile) -> Target:
    try:
        return find_target(profile.url, profile.ca_file)
    except OSError as error:
        raise BackhaulError(f"{profile.url}: {error}") from error
