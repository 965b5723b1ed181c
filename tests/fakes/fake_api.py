"""A loopback HTTP server that speaks the agent's side of the API, keeps everything in memory, and
fails in the ways in which networks fail.

Not a second API: it knows one host, delivers the commands that a test gives it, keeps the envelopes
that came, and checks what the real one would refuse (order, gaps, claims).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

import msgspec
import nacl.public
import nacl.signing

from backhaul.wire.agents import (
    Batch,
    BatchReply,
    EnrollReply,
    EnrollRequest,
    PollReply,
    PollRequest,
    Receipt,
    ReceiptStatus,
    UpEnvelope,
)
from backhaul.wire.base import PROTOCOL_HEADER, SPOKEN_PROTOCOLS
from backhaul.wire.commands import (
    CommandAck,
    CommandCancel,
    CommandRun,
    Credentials,
    QueryAnswer,
    QueryRun,
)
from backhaul.wire.kinds import Arguments
from backhaul.wire.problems import Problem, ProblemType, removal_message
from backhaul.wire.reports import JobFinished, JobLog
from backhaul.wire.schedules import (
    ScheduleEntry,
    ScheduleFire,
    ScheduleSet,
    build_scheduled_job_id,
)
from backhaul.wire.snapshots import QueryArguments
from backhaul.wire.tokens import TokenKind, build_token

OK = Receipt(status=ReceiptStatus.OK)


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, as bytes on the wire; without a status, the connection is cut instead."""

    status: int | None = 200
    body: bytes = b""
    headers: dict[str, str] = {}


class FakeApi:
    """Use it as an asynchronous context manager; `url` is where it listens."""

    def __init__(self) -> None:
        self.signing_key = nacl.signing.SigningKey.generate()
        self.enrollment_token = build_token(TokenKind.ENROLLMENT)
        self.agent_token = build_token(TokenKind.AGENT)
        self.host_id = uuid4()
        self.public_key = b""
        self.commands: list[CommandRun | CommandCancel | QueryRun] = []
        """Delivered with every poll until the agent says that it has them."""
        self.received: list[Any] = []
        """Every envelope that was not refused, in order."""
        self.polls: list[PollRequest] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.answers: dict[str, deque[Reply]] = {"poll": deque(), "envelopes": deque()}
        """Given instead of the true ones, first to last."""
        self.refused_claims: set[UUID] = set()
        self.schedules = ScheduleSet(schedule_version=0, schedules=())
        """Delivered with every poll that names another version."""
        self.jobs_of_fires: dict[tuple[UUID, datetime], UUID] = {}
        self.refused_fires: list[ScheduleFire] = []
        self.ran_offline: set[UUID] = set()
        """Jobs that the host has begun by itself: they are not sent to it."""
        self.hold_s = 0.05
        self.connections = 0
        self.drop_after_reply = False
        """Close each kept connection after an answer, without saying so: what idle limits do."""
        self._log_lines: dict[UUID, int] = {}
        self.changed = asyncio.Condition()
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    # What a test does ----------------------------------------------------------------------------

    def order(
        self,
        arguments: Arguments,
        credentials: Credentials,
        *,
        second: Credentials | None = None,
        **changes: Any,
    ) -> CommandRun:
        """Queue a job for the host, with its credentials sealed."""
        box = nacl.public.SealedBox(nacl.public.PublicKey(self.public_key))
        command = CommandRun(
            job_id=uuid4(),
            attempt=1,
            kind=str(arguments.__struct_config__.tag),
            arguments=msgspec.Raw(msgspec.json.encode(arguments)),
            repository_id=credentials.repository_id,
            credentials=box.encrypt(msgspec.json.encode(credentials)),
            second_repository_id=second.repository_id if second else None,
            second_credentials=box.encrypt(msgspec.json.encode(second)) if second else None,
        )
        command = msgspec.structs.replace(command, **changes)
        self.tell(command)
        return command

    def ask(
        self, arguments: QueryArguments, credentials: Credentials, *, ttl: float = 10.0
    ) -> QueryRun:
        """Ask the host something, with the repository's credentials sealed."""
        box = nacl.public.SealedBox(nacl.public.PublicKey(self.public_key))
        query = QueryRun(
            query_id=uuid4(),
            kind=str(arguments.__struct_config__.tag),
            arguments=msgspec.Raw(msgspec.json.encode(arguments)),
            ttl=ttl,
            repository_id=credentials.repository_id,
            credentials=box.encrypt(msgspec.json.encode(credentials)),
        )
        self.tell(query)
        return query

    def tell(self, command: CommandRun | CommandCancel | QueryRun) -> None:
        self.commands.append(command)
        self._wake.set()

    def set_schedules(self, *entries: ScheduleEntry) -> int:
        """Give the host another set; gives its version."""
        version = self.schedules.schedule_version + 1
        self.schedules = ScheduleSet(schedule_version=version, schedules=entries)
        self._wake.set()
        return version

    def of(self, type_: type[Any], job_id: UUID | None = None) -> list[Any]:
        """List what came of one type."""
        return [
            one
            for one in self.received
            if isinstance(one, type_) and job_id in {None, getattr(one, "job_id", None)}
        ]

    async def wait_for(self, type_: type[Any], job_id: UUID | None = None) -> Any:
        """Wait until an envelope of this type has come; gives the first."""
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: self.of(type_, job_id))
        return self.of(type_, job_id)[0]

    async def wait_for_polls(self, count: int) -> None:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: len(self.polls) >= count)

    def log_of(self, job_id: UUID) -> list[str]:
        return [line.text for log in self.of(JobLog, job_id) for line in log.lines]

    def problem(self, status: int, type_: ProblemType, **more: Any) -> Reply:
        """Build an answer that says no, as the API does."""
        problem = Problem(type=type_, title="No", status=status, detail="no", **more)
        return Reply(status=status, body=msgspec.json.encode(problem), headers=_PROTOCOL)

    def removal(self) -> Reply:
        signature = self.signing_key.sign(removal_message(self.host_id)).signature
        return self.problem(410, ProblemType.HOST_REMOVED, signature=signature)

    # What the agent sees -------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # The agent hung up.
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        path = head[0].split()[1]
        self.requests.append((path, headers))
        reply = await self._answer(path, headers, body)
        if reply.status is None:
            return False
        lines = [f"HTTP/1.1 {reply.status} X", f"Content-Length: {len(reply.body)}"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + reply.body)
        await writer.drain()
        return not self.drop_after_reply

    async def _answer(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        name = path.rpartition("/")[2]
        if self.answers.get(name):
            return self.answers[name].popleft()
        if name == "enroll":
            return self._enroll(msgspec.json.decode(body, type=EnrollRequest))
        if headers.get("authorization") != f"Bearer {self.agent_token}":
            return self.problem(401, ProblemType.NOT_AUTHENTICATED)
        if name == "poll":
            return await self._poll(msgspec.json.decode(body, type=PollRequest))
        return await self._receive(msgspec.json.decode(body, type=Batch))

    def _enroll(self, request: EnrollRequest) -> Reply:
        if request.enrollment_token != self.enrollment_token:
            return self.problem(401, ProblemType.NOT_AUTHENTICATED)
        self.public_key = request.public_key
        reply = EnrollReply(
            host_id=self.host_id,
            name=request.name or "web-1",
            agent_token=self.agent_token,
            server_time=datetime.now(UTC),
            protocol=SPOKEN_PROTOCOLS,
            signing_key=bytes(self.signing_key.verify_key),
        )
        return _ok(reply, status=201)

    async def _poll(self, request: PollRequest) -> Reply:
        async with self.changed:
            self.polls.append(request)
            self.changed.notify_all()
        held = {job.job_id for job in request.jobs}
        with contextlib.suppress(TimeoutError):
            while not self._due(held, request.schedule_version):
                self._wake.clear()
                await asyncio.wait_for(self._wake.wait(), min(request.hold, self.hold_s))
        due = self._due(held, request.schedule_version)
        envelopes = tuple(msgspec.Raw(msgspec.json.encode(one)) for one in due)
        return _ok(PollReply(envelopes=envelopes, server_time=datetime.now(UTC), hold=request.hold))

    def _due(
        self, held: set[UUID], version: int
    ) -> Sequence[ScheduleSet | CommandRun | CommandCancel | QueryRun]:
        acked = {ack.job_id for ack in self.of(CommandAck)}
        acked |= self.refused_claims | self.ran_offline
        sets = [self.schedules] if version != self.schedules.schedule_version else []
        ended = {end.job_id for end in self.of(JobFinished)}
        answered = {answer.query_id for answer in self.of(QueryAnswer)}
        return sets + [
            one
            for one in self.commands
            if (isinstance(one, CommandRun) and one.job_id not in held | acked)
            or (isinstance(one, QueryRun) and one.query_id not in answered)
            or (isinstance(one, CommandCancel) and one.job_id in held and one.job_id not in ended)
        ]

    async def _receive(self, batch: Batch) -> Reply:
        receipts = [
            self._take(msgspec.json.decode(raw, type=UpEnvelope)) for raw in batch.envelopes
        ]
        async with self.changed:
            self.changed.notify_all()
        return _ok(BatchReply(receipts=tuple(receipts)))

    def _take(self, envelope: Any) -> Receipt:
        match envelope:
            case CommandAck() if envelope.job_id in self.refused_claims:
                return _rejected(ProblemType.CONFLICT)
            case ScheduleFire():
                return self._take_fire(envelope)
            case JobLog():
                have = self._log_lines.get(envelope.job_id, 0)
                if envelope.seq > have:
                    return _rejected(ProblemType.LOG_GAP, expected_seq=have)
                if envelope.seq + len(envelope.lines) <= have:
                    return Receipt(status=ReceiptStatus.DUPLICATE)
                self._log_lines[envelope.job_id] = envelope.seq + len(envelope.lines)
            case JobFinished():
                have = self._log_lines.get(envelope.job_id, 0)
                if envelope.log_lines > have:
                    return _rejected(ProblemType.LOG_GAP, expected_seq=have)
        self.received.append(envelope)
        return OK

    def _take_fire(self, fire: ScheduleFire) -> Receipt:
        entry = next(
            (one for one in self.schedules.schedules if one.schedule_id == fire.schedule_id), None
        )
        if entry is None or not entry.enabled:
            self.refused_fires.append(fire)
            return _rejected(ProblemType.CONFLICT)
        job_id = build_scheduled_job_id(fire.schedule_id, fire.scheduled_at)
        key = (fire.schedule_id, fire.scheduled_at)
        is_new = key not in self.jobs_of_fires
        self.jobs_of_fires[key] = job_id
        if fire.ran_offline:
            self.ran_offline.add(job_id)
        elif is_new and entry.template is not None:
            self.tell(build_run(job_id, entry))
        self.received.append(fire)
        status = ReceiptStatus.OK if is_new else ReceiptStatus.DUPLICATE
        return Receipt(status=status, job_id=job_id)

    def forget_log(self, job_id: UUID) -> None:
        """Lose what came of a job's log, like a server that was set back."""
        self._log_lines[job_id] = 0
        self.received = [
            one for one in self.received if not (isinstance(one, JobLog) and one.job_id == job_id)
        ]


_PROTOCOL = {PROTOCOL_HEADER: "1", "Content-Type": "application/json"}


def build_run(job_id: UUID, entry: ScheduleEntry) -> CommandRun:
    """Build the command for the job of a schedule, as its template has it."""
    assert entry.template is not None
    return CommandRun(
        job_id=job_id,
        attempt=1,
        kind=entry.kind,
        arguments=msgspec.Raw(msgspec.json.encode(entry.template.arguments)),
        repository_id=entry.template.repository_id,
        credentials=entry.template.credentials,
    )


def _ok(value: msgspec.Struct, *, status: int = 200) -> Reply:
    return Reply(status=status, body=msgspec.json.encode(value), headers=_PROTOCOL)


def _rejected(type_: ProblemType, **more: Any) -> Receipt:
    problem = Problem(type=type_, title="No", status=409, detail="no", **more)
    return Receipt(status=ReceiptStatus.REJECTED, problem=problem)
