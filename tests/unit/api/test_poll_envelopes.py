"""Reading the envelopes of a batch, one at a time."""

from __future__ import annotations

from typing import get_args
from uuid import UUID

import msgspec
import pytest

from backhaul.wire.agents import UpEnvelope
from backhaul.wire.commands import CommandAck
from backhaul_api.errors import InvalidError, UnknownEnvelopeError
from backhaul_api.polling.receive import APPLY, decode_batch, decode_envelope

JOB = UUID("0192f0c1-7777-7000-8000-000000000001")


DEEP = b"[" * 100_000 + b"]" * 100_000


def test_envelope_that_is_nested_too_deeply_leaves_its_neighbours_alone() -> None:
    good = b'{"type": "from the future", "text": "]]}"}'
    deep = b'{"type": "x", "zap": ' + DEEP + b', "more": "[\\"{"}'

    batch = decode_batch(b'{"envelopes": [' + b",".join([good, deep, good]) + b"]}")

    assert [bytes(raw) for raw in batch.envelopes[::2]] == [good, good]
    assert msgspec.json.decode(batch.envelopes[1])["more"] == '["{'


@pytest.mark.parametrize(
    "body",
    [b"[" * 500_000, b'{"envelopes": ' + DEEP + b', "x', b'["' + b'\\"' * 200_000 + b"\\"],
    ids=["open", "cut", "quotes"],
)
def test_batch_that_is_only_deep_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidError):
        decode_batch(body)


def test_every_envelope_that_an_agent_can_send_is_applied_by_something() -> None:
    assert set(APPLY) == set(get_args(UpEnvelope))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"a\u0000b", "a\ufffdb"),
        (r"\u0000\u0000", "\ufffd\ufffd"),
        (r"\\u0000", r"\u0000"),
        (r"\\\u0000", "\\\ufffd"),
        (r"\\\\u0000", r"\\u0000"),
    ],
)
def test_escaped_nul_becomes_a_replacement_character(text: str, expected: str) -> None:
    raw = f'{{"type":"command.ack","job_id":"{JOB}","is_accepted":false,"reason":"{text}"}}'

    envelope = decode_envelope(raw.encode())

    assert envelope == CommandAck(job_id=JOB, is_accepted=False, reason=expected)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"7",
        b"{",
        b"{}",
        b'{"type": null}',
        b'{"type": "command.ack"}',
        b'{"type": "command.ack", "job_id": "x", "is_accepted": true}',
        b'{"type": "command.ack", "is_accepted": "\xff"}',
        b'{"type": "command.ack", "zap": ' + DEEP + b"}",
    ],
    ids=lambda raw: repr(raw)[:60],
)
def test_bad_envelope_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidError):
        decode_envelope(raw)


def test_unknown_type_is_named_but_not_at_length() -> None:
    with pytest.raises(UnknownEnvelopeError, match=r"'x{100}'\.$"):
        decode_envelope(b'{"type": "' + b"x" * 5000 + b'"}')
