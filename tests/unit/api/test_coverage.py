"""How much of a repository was read, compared with what a count of single packs finds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backhaul_api.repositories.coverage import choose_part, measure

PARTS = st.integers(1, 256).flatmap(
    lambda parts: st.integers(1, parts).map(lambda number: f"{number}/{parts}")
)
PERCENTAGES = st.integers(1, 100).map(lambda percent: f"{percent}%")


def is_read(first_byte: int, part: str) -> bool:
    """Tell what restic tells: `(uint(pack[0]) % totalBuckets) == (bucket - 1)`."""
    bucket, _, total = part.partition("/")
    return first_byte % int(total) == int(bucket) - 1


@given(parts=st.dictionaries(PARTS, st.integers(1, 3), max_size=40))
def test_parts_cover_what_restic_takes_for_them(parts: dict[str, int]) -> None:
    read = [byte for byte in range(256) if any(is_read(byte, part) for part in parts)]

    assert measure(parts) == pytest.approx(len(read) / 256)


@given(
    parts=st.dictionaries(PARTS, st.integers(1, 3), max_size=5),
    percentages=st.dictionaries(PERCENTAGES, st.integers(1, 3), max_size=3),
)
def test_random_parts_count_as_what_is_expected_of_the_rest(
    parts: dict[str, int], percentages: dict[str, int]
) -> None:
    expected = 0.0
    for byte in range(256):
        missed = 0.0 if any(is_read(byte, part) for part in parts) else 1.0
        for percentage, count in percentages.items():
            for _ in range(count):
                missed *= 1 - int(percentage[:-1]) / 100
        expected += (1 - missed) / 256

    assert measure(parts | percentages) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reads", "covered"),
    [({}, 0.0), ({"1/1": 1}, 1.0), ({"100%": 1}, 1.0), ({"1/256": 9}, 1 / 256)],
    ids=["nothing", "all", "all by chance", "one part again and again"],
)
def test_ends_are_exact(reads: dict[str, int], covered: float) -> None:
    assert measure(reads) == covered


@given(parts=st.integers(1, 256))
def test_each_round_reads_everything(parts: int) -> None:
    last, reads = None, {}
    for _ in range(parts):
        last = choose_part(last, parts)
        reads[last] = 1

    assert len(reads) == parts
    assert measure(reads) == 1.0
