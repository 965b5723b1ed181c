"""Operators' passwords."""

from __future__ import annotations

import asyncio
import threading

import argon2
import pytest

from backhaul_api.errors import RateLimitedError
from backhaul_api.passwords import MAX_WAITING, RFC_9106_LOW_MEMORY, PasswordHasher
from tests.conftest import FAST_ARGON2


class CountingHasher(PasswordHasher):
    """Counts the checks that really ran."""

    def __init__(self) -> None:
        super().__init__(FAST_ARGON2)
        self.checked: list[str] = []

    def _verify(self, password_hash: str, password: str) -> bool:
        self.checked.append(password_hash)
        return super()._verify(password_hash, password)


class StuckHasher(PasswordHasher):
    """Hashes only once it may."""

    def __init__(self) -> None:
        super().__init__(FAST_ARGON2)
        self.may_go_on = threading.Event()

    def _verify(self, password_hash: str, password: str) -> bool:
        assert self.may_go_on.wait(30)
        return super()._verify(password_hash, password)


async def test_those_beyond_a_short_queue_are_sent_away_and_the_rest_are_served() -> None:
    hasher = StuckHasher()
    password_hash = await PasswordHasher(FAST_ARGON2).hash("correct horse battery")
    checks = [
        asyncio.create_task(hasher.verify(password_hash, "correct horse battery"))
        for _ in range(MAX_WAITING + 10)
    ]
    await asyncio.sleep(0)
    hasher.may_go_on.set()

    results = await asyncio.gather(*checks, return_exceptions=True)

    refused = [result for result in results if isinstance(result, RateLimitedError)]
    assert len(refused) == 8  # two are served at a time
    assert results.count(True) == MAX_WAITING + 2
    assert await hasher.verify(password_hash, "correct horse battery")


async def test_right_password_is_accepted_and_a_wrong_one_is_not() -> None:
    hasher = PasswordHasher(FAST_ARGON2)
    password_hash = await hasher.hash("correct horse battery")

    assert await hasher.verify(password_hash, "correct horse battery")
    assert not await hasher.verify(password_hash, "correct horse batterz")


async def test_nobody_is_checked_against_a_real_hash_and_refused() -> None:
    hasher = CountingHasher()

    assert not await hasher.verify(None, "nobody has this password")
    assert len(hasher.checked) == 1
    assert argon2.extract_parameters(hasher.checked[0]) == FAST_ARGON2


async def test_what_is_not_a_hash_is_refused() -> None:
    assert not await PasswordHasher(FAST_ARGON2).verify("plain text", "plain text")


async def test_hash_with_other_parameters_needs_a_new_one() -> None:
    hasher = PasswordHasher(FAST_ARGON2)
    password_hash = await hasher.hash("correct horse battery")

    assert not hasher.needs_rehash(password_hash)
    assert PasswordHasher().needs_rehash(password_hash)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("type", argon2.Type.ID),
        ("memory_cost", 64 * 1024),
        ("time_cost", 3),
        ("parallelism", 4),
        ("hash_len", 32),
        ("salt_len", 16),
    ],
)
async def test_default_parameters_are_the_second_that_rfc_9106_recommends(
    name: str, value: object
) -> None:
    assert getattr(RFC_9106_LOW_MEMORY, name) == value


async def test_default_hash_is_argon2id_and_checks() -> None:
    hasher = PasswordHasher()
    password_hash = await hasher.hash("correct horse battery")

    assert password_hash.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert await hasher.verify(password_hash, "correct horse battery")
