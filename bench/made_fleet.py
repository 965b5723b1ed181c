"""A database with a fleet in it, made in seconds: hosts with tokens, an operator, a repository."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import nacl.public
import sqlalchemy as sa

from backhaul.wire.agents import HostFacts, PollRequest
from backhaul.wire.base import SPOKEN_PROTOCOLS
from backhaul.wire.fleet import CreateRepository
from backhaul.wire.tokens import TokenKind, build_token, hash_token
from backhaul_api.db.engine import Database
from backhaul_api.db.tables import api_tokens, hosts, users
from backhaul_api.ids import new_id
from backhaul_api.preparation import upgrade_database
from backhaul_api.repositories import store as repositories
from backhaul_api.server_identity import open_keys
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
    boots: list[UUID]

    def build_poll(self, number: int, hold_s: float) -> bytes:
        """Build the body of a host's poll."""
        return msgspec.json.encode(
            PollRequest(
                boot_id=self.boots[number],
                schedule_version=0,
                settings_version=0,
                jobs=(),
                clock=datetime.now(UTC),
                hold=hold_s,
            )
        )


async def make_fleet(folder: Path, count: int, *, url: str | None = None) -> MadeFleet:
    """Fill a SQLite database in a folder, or the one that the URL names."""
    settings = Settings(data_dir=folder, database_url=url)
    await upgrade_database(settings)
    database = Database(settings.effective_database_url)
    keys = await open_keys(settings, database)
    async with database.writing() as connection:
        await repositories.insert(
            connection,
            keys,
            CreateRepository(name="nas", location="/srv/nas", password="only of the bench"),
            now=datetime.now(UTC),
        )
    fleet = await add_fleet(database, count)
    await database.close()
    return fleet


async def add_fleet(database: Database, count: int, *, name: str = "ada") -> MadeFleet:
    """Add an operator of that name, and hosts."""
    now = datetime.now(UTC) - timedelta(seconds=1)
    fleet = MadeFleet(
        operator_token=build_token(TokenKind.API),
        tokens=[build_token(TokenKind.AGENT) for _ in range(count)],
        names=[f"host-{number}" for number in range(count)],
        boots=[uuid4() for _ in range(count)],
    )
    key = bytes(nacl.public.PrivateKey.generate().public_key)
    rows = [
        {
            "id": new_id(),
            "name": host,
            "labels": {},
            "facts": msgspec.to_builtins(FACTS),
            "public_key": key,
            "token_hash": hash_token(token),
            "boot_id": boot,
            "enrolled_at": now,
            "last_seen_at": now,
        }
        for host, token, boot in zip(fleet.names, fleet.tokens, fleet.boots, strict=True)
    ]
    user_id = new_id()
    async with database.writing() as connection:
        await connection.execute(
            sa.insert(users).values(id=user_id, username=name, password_hash="x", created_at=now)
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
        if rows:
            await connection.execute(sa.insert(hosts), rows)
    return fleet
