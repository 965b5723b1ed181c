"""A database with a fleet in it, made in seconds: hosts with tokens, an operator, a repository."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import msgspec
import nacl.public
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.agents import HostFacts, PollRequest
from backhaul.wire.base import SPOKEN_PROTOCOLS
from backhaul.wire.fleet import CreateRepository
from backhaul.wire.tokens import TokenKind, build_token, hash_token
from backhaul_api.db.engine import Database, open_database
from backhaul_api.db.tables import api_tokens, hosts, schedules, sources, users
from backhaul_api.ids import new_id
from backhaul_api.preparation import upgrade_database
from backhaul_api.repositories import store as repositories
from backhaul_api.server_identity import follow_keys, open_keys
from backhaul_api.settings import Settings

FACTS = HostFacts(
    hostname="web-1",
    os="Debian GNU/Linux 12 (bookworm)",
    architecture="x86_64",
    agent_version="0.1.0",
    protocol=SPOKEN_PROTOCOLS,
    restic_version="0.14.0",
)


@dataclass
class MadeFleet:
    """What was made; the lists are by the number of the host."""

    operator_token: str
    tokens: list[str]
    names: list[str]
    host_ids: list[UUID]
    boots: list[UUID]
    schedule_ids: list[list[UUID]]
    schedule_version: int = 0
    """That all of them have applied."""

    def build_poll(self, number: int, hold_s: float) -> bytes:
        """Build the body of a host's poll."""
        return msgspec.json.encode(
            PollRequest(
                boot_id=self.boots[number],
                schedule_version=self.schedule_version,
                settings_version=0,
                jobs=(),
                clock=datetime.now(UTC),
                hold=hold_s,
            )
        )


async def make_fleet(settings: Settings, count: int, *, schedules_each: int = 0) -> MadeFleet:
    """Fill an empty database, which belongs to the key file that the settings name."""
    await upgrade_database(settings)
    database = open_database(settings)
    keys = await open_keys(settings, database)
    async with database.writing() as connection:
        repository = await repositories.insert(
            connection,
            keys,
            CreateRepository(name="nas", location="/srv/nas", password="only of the bench"),
            now=datetime.now(UTC),
        )
    fleet = await add_fleet(
        database, count, repository_id=repository.id, schedules_each=schedules_each
    )
    # As the first start of a server does, which then tells hosts their schedules anew.
    await follow_keys(database, keys, now=datetime.now(UTC))
    async with database.reading() as connection:
        version = await connection.scalar(sa.select(sa.func.max(hosts.c.schedule_version)))
    fleet.schedule_version = version or 0
    await database.close()
    return fleet


async def add_fleet(
    database: Database,
    count: int,
    *,
    name: str = "ada",
    repository_id: UUID | None = None,
    schedules_each: int = 0,
) -> MadeFleet:
    """Add an operator of that name, and hosts; with a repository, schedules for each."""
    now = datetime.now(UTC) - timedelta(seconds=1)
    fleet = MadeFleet(
        operator_token=build_token(TokenKind.API),
        tokens=[build_token(TokenKind.AGENT) for _ in range(count)],
        names=[f"host-{number}" for number in range(count)],
        host_ids=[new_id() for _ in range(count)],
        boots=[uuid4() for _ in range(count)],
        schedule_ids=[[new_id() for _ in range(schedules_each)] for _ in range(count)],
    )
    user_id = new_id()
    async with database.writing() as connection:
        await connection.execute(
            sa.insert(users).values(id=user_id, username=name, password_hash="none", created_at=now)
        )
        await connection.execute(
            sa.insert(api_tokens).values(
                id=new_id(),
                user_id=user_id,
                name="bench",
                token_hash=hash_token(fleet.operator_token),
                created_at=now,
            )
        )
        if count:
            await connection.execute(sa.insert(hosts), _build_hosts(fleet, now))
        if repository_id is not None and schedules_each:
            await _insert_schedules(connection, fleet, repository_id, now)
    return fleet


def _build_hosts(fleet: MadeFleet, now: datetime) -> list[dict[str, object]]:
    rows = zip(fleet.host_ids, fleet.names, fleet.tokens, fleet.boots, strict=True)
    return [
        {
            "id": host_id,
            "name": name,
            "labels": {},
            "facts": msgspec.to_builtins(FACTS),
            "public_key": bytes(nacl.public.PrivateKey.generate().public_key),
            "token_hash": hash_token(token),
            "boot_id": boot,
            "enrolled_at": now,
            "last_seen_at": now,
        }
        for host_id, name, token, boot in rows
    ]


async def _insert_schedules(
    connection: AsyncConnection, fleet: MadeFleet, repository_id: UUID, now: datetime
) -> None:
    """Give each host its schedules, all of one source."""
    source = {"id": new_id(), "name": "etc", "paths": ["/etc"], "excludes": [], "tags": []}
    times = {"created_at": now, "updated_at": now}
    await connection.execute(sa.insert(sources).values(**source, **times, one_file_system=False))
    await connection.execute(
        sa.insert(schedules),
        [
            {
                "id": schedule_id,
                "host_id": host_id,
                "repository_id": repository_id,
                "source_id": source["id"],
                "kind": "backup",
                "cron": "30 1 * * *",
                "timezone": "UTC",
                "enabled": True,
                "catch_up": "once",
                "jitter": 0.0,
                "when_unreachable": "run",
                **times,
            }
            for host_id, schedule_ids in zip(fleet.host_ids, fleet.schedule_ids, strict=True)
            for schedule_id in schedule_ids
        ],
    )
