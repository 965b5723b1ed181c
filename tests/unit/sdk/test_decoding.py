"""Answers are read in any thread."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import msgspec
import pytest

from backhaul._decoding import convert, decode
from backhaul.wire.events import Event
from tests.unit.sdk.builders import build_job

_SCRIPT: Final = """
import sys, threading
from backhaul._decoding import decode
from backhaul.wire.jobs import Job

sys.setswitchinterval(1e-5)
body, barrier, read = sys.stdin.buffer.read(), threading.Barrier(20), []


def read_first():
    barrier.wait()
    read.append(decode(body, Job))


threads = [threading.Thread(target=read_first) for _ in range(20)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(set(map(str, read))) == 1 and len(read) == 20, read
"""


@pytest.mark.parametrize("_", range(3))
def test_threads_that_all_read_the_first_answer_of_a_type_do_not_crash(_: int) -> None:
    """In a process of its own: here, the type is known already."""
    body = msgspec.json.encode(build_job())

    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT], input=body, capture_output=True, check=False
    )

    assert ended.returncode == 0, ended.stderr.decode()


def test_what_is_not_of_the_type_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(b"[]", Event)
    with pytest.raises(msgspec.ValidationError):
        convert([], Event)
