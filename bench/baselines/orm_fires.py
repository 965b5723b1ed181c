"""Fires as most would store them: an ORM session and a commit for each request.

    python -m bench.baselines.orm_fires PORT DATABASE_URL HOSTS

`POST /v1/agent/envelopes` with one `schedule.fire` finds the host by its token, the schedule, and
whether the fire is known; if not, it stores the fire and its job, which name each other. HOSTS is a
JSON file of `[{"id", "token_hash", "schedules": [ID]}]`, hashes in hex, for an empty database.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
import uvicorn
from litestar import Litestar, Request, post
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backhaul_api.db.sqlite import configure_sqlite

_ARGUMENTS = {"kind": "backup", "paths": ["/etc"], "tags": ["etc"]}


class Base(DeclarativeBase):
    type_annotation_map = {
        datetime: sa.DateTime(timezone=True),
        dict[str, Any]: sa.JSON(),
    }


class Host(Base):
    __tablename__ = "hosts"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(unique=True)


class Schedule(Base):
    __tablename__ = "schedules"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    host_id: Mapped[UUID] = mapped_column(sa.ForeignKey("hosts.id"), index=True)
    kind: Mapped[str]
    arguments: Mapped[dict[str, Any]]


class Job(Base):
    __tablename__ = "jobs"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    host_id: Mapped[UUID] = mapped_column(sa.ForeignKey("hosts.id"), index=True)
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(index=True)
    arguments: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(index=True)


class Fire(Base):
    __tablename__ = "fires"
    schedule_id: Mapped[UUID] = mapped_column(sa.ForeignKey("schedules.id"), primary_key=True)
    scheduled_at: Mapped[datetime] = mapped_column(primary_key=True)
    fired_at: Mapped[datetime]
    job_id: Mapped[UUID] = mapped_column(sa.ForeignKey("jobs.id"))


@post("/v1/agent/envelopes", status_code=200)
async def send_envelopes(request: Request[Any, Any, Any]) -> dict[str, Any]:
    token = request.headers["authorization"].removeprefix("Bearer ")
    (fire,) = (await request.json())["envelopes"]
    async with request.app.state.sessions() as session:
        receipt = await _take(session, hashlib.sha256(token.encode()).digest(), fire)
        await session.commit()
    return {"receipts": [receipt]}


async def _take(session: AsyncSession, token_hash: bytes, fire: dict[str, Any]) -> dict[str, Any]:
    host = await session.scalar(sa.select(Host).where(Host.token_hash == token_hash))
    schedule = await session.get(Schedule, UUID(fire["schedule_id"]))
    if host is None or schedule is None or schedule.host_id != host.id:
        return {"status": "rejected"}
    scheduled_at = datetime.fromisoformat(fire["scheduled_at"])
    known = await session.get(Fire, (schedule.id, scheduled_at))
    if known is not None:
        return {"status": "duplicate", "job_id": str(known.job_id)}
    job = Job(
        host_id=host.id,
        kind=schedule.kind,
        state="queued",
        arguments=schedule.arguments,
        created_at=datetime.now(UTC),
    )
    session.add(job)
    await session.flush()
    fired_at = datetime.fromisoformat(fire["fired_at"])
    session.add(
        Fire(schedule_id=schedule.id, scheduled_at=scheduled_at, fired_at=fired_at, job_id=job.id)
    )
    return {"status": "ok", "job_id": str(job.id)}


@asynccontextmanager
async def live(app: Litestar) -> AsyncIterator[None]:
    url = sa.make_url(sys.argv[2])
    is_sqlite = url.get_backend_name() == "sqlite"
    # A pool as large as Backhaul's.
    engine = create_async_engine(url, **({} if is_sqlite else {"pool_size": 10}))
    if is_sqlite:

        @sa.event.listens_for(engine.sync_engine, "connect")
        def configure(connection: Any, _record: Any) -> None:
            configure_sqlite(connection, busy_timeout_ms=10_000)

    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    app.state.sessions = async_sessionmaker(engine)
    async with app.state.sessions() as session:
        for host in json.loads(Path(sys.argv[3]).read_text()):  # noqa: ASYNC240 (before it listens)
            host_id = UUID(host["id"])
            session.add(Host(id=host_id, token_hash=bytes.fromhex(host["token_hash"])))
            session.add_all(
                Schedule(
                    id=UUID(id_), host_id=host_id, kind="backup", arguments={"paths": ["/etc"]}
                )
                for id_ in host["schedules"]
            )
        await session.commit()
    yield
    await engine.dispose()


app = Litestar([send_envelopes], lifespan=[live], openapi_config=None, logging_config=None)

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False, ws="none")
