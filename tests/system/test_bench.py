"""The measurements of `bench`: each still runs, and what is counted is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from backhaul_api.settings import Settings
from bench import fires, parked, stopping
from bench.contenders import build_backhaul, build_baseline, build_sockets
from bench.made_fleet import MadeFleet, make_fleet

SCALE = parked.Scale(
    agents=16,
    repolling=8,
    repoll_hold_s=0.2,
    repoll_s=0.4,
    dispatches=5,
    jobs_s=0.3,
    clients=(4,),
)
LOAD = fires.Load(clients=4, seconds=0.3, batch=10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
async def fleet(folder: Path, empty_database_url: str) -> MadeFleet:
    settings = Settings(data_dir=folder, database_url=empty_database_url)
    return await make_fleet(settings, SCALE.hosts, schedules_each=2)


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
async def test_every_server_is_measured_alike_and_no_job_is_lost_or_doubled(
    fleet: MadeFleet, folder: Path, empty_database_url: str
) -> None:
    backhaul = build_backhaul("backhaul", fleet, folder, empty_database_url)

    ours = await parked.measure(backhaul, SCALE)
    bare = await parked.measure(build_baseline("bare_asgi", fleet), SCALE)
    pushed = await parked.measure(build_sockets("websockets", fleet), SCALE)

    assert (ours["lost"], ours["doubled"]) == (0, 0)
    counted = {"lost", "doubled"}
    assert ours.keys() - counted == bare.keys()
    assert bare.keys() - pushed.keys() == {"first_poll", "repoll"}
    for figures in (ours, bare, pushed):
        assert figures["dispatch_p50"] > 0
        assert figures["jobs_4"] > 0


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
async def test_fires_are_counted_where_they_are_stored(
    fleet: MadeFleet, folder: Path, empty_database_url: str, tmp_path: Path
) -> None:
    single = fires.Load(clients=LOAD.clients, seconds=LOAD.seconds)

    ours = await fires.measure_backhaul(fleet, folder, empty_database_url, LOAD)
    orm = await fires.measure_orm(fleet, tmp_path, f"sqlite+aiosqlite:///{tmp_path}/orm", single)

    assert (ours["lost"], ours["doubled"]) == (0, 0)
    assert ours["fires"] > 0
    assert orm["fires"] > 0


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
async def test_agents_of_an_instance_that_stops_go_to_the_other_without_an_error(
    fleet: MadeFleet, folder: Path, empty_database_url: str
) -> None:
    contender = build_backhaul("backhaul", fleet, folder, empty_database_url)

    figures = await stopping.measure_stop(contender, SCALE.agents)

    assert figures["errors"] == 0
    assert figures["exit"] < 3
