"""Which keys a database is opened with, and when they may be made anew."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from backhaul.wire.fleet import CreateRepository
from backhaul_api.db.tables import server_identity
from backhaul_api.keys import KeyFileError, KeyRing
from backhaul_api.repositories import store as repositories
from backhaul_api.server_identity import open_keys
from backhaul_api.services import Services
from tests.fakes.fleet import add_agent


async def _use(services: Services, keys: KeyRing) -> None:
    """Store something that only these keys open."""
    request = CreateRepository(name="nas", location="/srv/restic", password="hunter2")
    async with services.database.writing() as connection:
        await repositories.insert(connection, keys, request, now=services.clock.now())


async def _owners(services: Services) -> list[bytes]:
    async with services.database.reading() as connection:
        return list((await connection.scalars(sa.select(server_identity.c.verify_key))).all())


def _is_shared(services: Services) -> bool:
    return not services.database.is_sqlite


async def test_new_database_gets_a_key_file_and_keeps_to_it(services: Services) -> None:
    made = await open_keys(services.settings, services.database)
    again = await open_keys(services.settings, services.database)

    assert services.settings.effective_key_file.exists()
    assert again.verify_key == made.verify_key
    assert await _owners(services) == [made.verify_key]


@pytest.mark.parametrize("thing", ["secret", "host"])
async def test_missing_key_file_of_a_used_database_is_not_replaced(
    services: Services, thing: str
) -> None:
    keys = await open_keys(services.settings, services.database)
    if thing == "secret":
        await _use(services, keys)
    else:
        await add_agent(services, "http://nowhere")
    file = services.settings.effective_key_file
    file.unlink()

    with pytest.raises(KeyFileError, match="missing"):
        await open_keys(services.settings, services.database)

    assert not file.exists()
    assert await _owners(services) == [keys.verify_key]


async def test_missing_key_file_is_not_replaced_though_the_database_never_noted_its_owner(
    services: Services,
) -> None:
    await _use(services, services.keys)

    with pytest.raises(KeyFileError, match="missing"):
        await open_keys(services.settings, services.database)

    assert await _owners(services) == []


@pytest.mark.parametrize("place", ["file", "setting"])
async def test_keys_of_another_database_are_refused_and_left_alone(
    services: Services, tmp_path: Path, place: str
) -> None:
    keys = await open_keys(services.settings, services.database)
    await _use(services, keys)
    other = base64.b64encode(bytes(32))
    settings = services.settings
    if place == "file":
        settings.effective_key_file.write_bytes(other)
    else:
        settings = msgspec.structs.replace(settings, key=other.decode())

    with pytest.raises(KeyFileError, match=r"secret\.key" if place == "file" else "BACKHAUL_API"):
        await open_keys(settings, services.database)

    assert await _owners(services) == [keys.verify_key]


async def test_new_key_in_front_of_the_old_ones_is_no_other_owner(services: Services) -> None:
    keys = await open_keys(services.settings, services.database)
    await _use(services, keys)
    file = services.settings.effective_key_file
    file.write_bytes(base64.b64encode(bytes(range(32))) + b"\n" + file.read_bytes())

    rotated = await open_keys(services.settings, services.database)

    assert rotated.verify_key == keys.verify_key


async def test_lost_key_file_of_an_unused_database_is_made_anew_unless_others_share_it(
    services: Services,
) -> None:
    old = await open_keys(services.settings, services.database)
    services.settings.effective_key_file.unlink()

    if _is_shared(services):
        with pytest.raises(KeyFileError, match="instance that shares"):
            await open_keys(services.settings, services.database)
        assert await _owners(services) == [old.verify_key]
    else:
        new = await open_keys(services.settings, services.database)
        assert new.verify_key != old.verify_key
        assert await _owners(services) == [new.verify_key]


async def test_bad_key_text_is_refused_by_the_name_of_its_setting(services: Services) -> None:
    settings = msgspec.structs.replace(services.settings, key="not base64!")

    with pytest.raises(KeyFileError, match=r"BACKHAUL_API_KEY\): a line is not base64"):
        await open_keys(settings, services.database)
