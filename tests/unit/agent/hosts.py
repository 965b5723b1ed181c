"""What tests of the agent build again and again."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import nacl.public
import nacl.signing

from backhaul.wire.agents import HostFacts, PollReply, PollRequest, Receipt, ReceiptStatus
from backhaul.wire.base import SPOKEN_PROTOCOLS
from backhaul.wire.commands import CommandRun, Credentials
from backhaul.wire.kinds import Arguments, BackupArguments
from backhaul.wire.problems import Problem
from backhaul.wire.tokens import TokenKind, build_token
from backhaul_agent.identity import Identity
from backhaul_agent.link import Link
from tests.fakes.light_repository import PASSWORD as PASSWORD

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
OK = Receipt(status=ReceiptStatus.OK)
FACTS = HostFacts(
    hostname="web-1",
    os="Debian GNU/Linux 12 (bookworm)",
    architecture="x86_64",
    agent_version="0.1.0",
    protocol=SPOKEN_PROTOCOLS,
    restic_version="0.14.0",
)


class ManualClock:
    """Sleeping takes no time and moves the clock; the sleeps are kept.

    `advance` is time that passes, `step` is somebody who sets the clock, or a suspend.
    """

    def __init__(self) -> None:
        self.sleeps: list[float] = []
        self._passed_s = 0.0
        self._stepped_s = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self._passed_s + self._stepped_s)

    def monotonic(self) -> float:
        return self._passed_s

    def advance(self, seconds: float) -> None:
        self._passed_s += seconds

    def step(self, seconds: float) -> None:
        self._stepped_s += seconds

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.advance(seconds)
        await asyncio.sleep(0)


class ScriptedLink(Link):
    """Gives prepared answers; when they are used up, it waits for ever."""

    def __init__(self, *answers: object) -> None:
        self.answers = deque(answers)
        self.polled: list[PollRequest] = []
        self.sent: list[tuple[msgspec.Raw, ...]] = []
        self.is_used_up = asyncio.Event()

    async def poll(self, request: PollRequest) -> PollReply:
        self.polled.append(request)
        return await self._next()  # type: ignore[no-any-return]  # the test's answers are of any type

    async def send(self, envelopes: tuple[msgspec.Raw, ...]) -> tuple[Receipt, ...]:
        self.sent.append(envelopes)
        answer = await self._next()
        return answer if answer is not None else (OK,) * len(envelopes)

    async def _next(self) -> Any:
        if not self.answers:
            self.is_used_up.set()
            await asyncio.Event().wait()
        answer = self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer


def build_identity(
    *,
    server_url: str = "http://127.0.0.1:1",
    signing_key: nacl.signing.SigningKey | None = None,
    agent_token: str | None = None,
) -> Identity:
    signing_key = signing_key or nacl.signing.SigningKey.generate()
    return Identity(
        server_url=server_url,
        ca_file=None,
        host_id=uuid4(),
        name="web-1",
        agent_token=agent_token or build_token(TokenKind.AGENT),
        private_key=bytes(nacl.public.PrivateKey.generate()),
        signing_key=bytes(signing_key.verify_key),
    )


def build_credentials(repository_id: UUID | None = None, **changes: Any) -> Credentials:
    credentials = Credentials(
        repository_id=repository_id or uuid4(), location="/srv/repo", password=PASSWORD
    )
    return msgspec.structs.replace(credentials, **changes)


def build_command(arguments: Arguments | None = None, **changes: Any) -> CommandRun:
    arguments = arguments or BackupArguments(paths=("/etc",))
    command = CommandRun(
        job_id=uuid4(),
        attempt=1,
        kind=str(arguments.__struct_config__.tag),
        arguments=msgspec.Raw(msgspec.json.encode(arguments)),
    )
    return msgspec.structs.replace(command, **changes)


def seal(identity: Identity, credentials: Credentials) -> bytes:
    key = nacl.public.PrivateKey(identity.private_key).public_key
    return nacl.public.SealedBox(key).encrypt(msgspec.json.encode(credentials))


def rejected(type_: str, **more: Any) -> Receipt:
    problem = Problem(type=type_, title="No", status=409, detail="no", **more)
    return Receipt(status=ReceiptStatus.REJECTED, problem=problem)


RECORDINGS = {"0.14.0": "restic", "0.18.0": "restic-0.18.0", "0.19.1": "restic-0.19.1"}


def poll_reply(*envelopes: msgspec.Struct, **changes: Any) -> PollReply:
    raw = tuple(msgspec.Raw(msgspec.json.encode(envelope)) for envelope in envelopes)
    return msgspec.structs.replace(
        PollReply(envelopes=raw, server_time=START, hold=25.0), **changes
    )


def read_recorded(case: str, version: str = "0.14.0") -> tuple[list[str], list[str], int]:
    """Read a recording: lines of stdout, lines of stderr, exit code."""
    folder = Path(__file__).parents[2] / "data" / RECORDINGS[version] / case
    stdout = next(folder.glob("stdout.*")).read_text(errors="replace").splitlines()
    stderr = (folder / "stderr.txt").read_text(errors="replace").splitlines()
    return stdout, stderr, int((folder / "exit.txt").read_text())
