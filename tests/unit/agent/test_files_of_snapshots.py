"""What `restic ls` and `restic find` print of files, read from recordings."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from backhaul.wire.snapshots import FileEntry, FindFiles, ListFiles
from backhaul_agent.restic import find, ls
from backhaul_agent.restic.files import EntryPage, read_entry
from tests.unit.agent.hosts import read_recorded

HEX = "d9c8cbca" * 8


def build_page(*, skip: int = 0, limit: int = 1000, max_bytes: int = 1 << 20) -> EntryPage:
    return EntryPage(skip=skip, limit=limit, max_bytes=max_bytes)


def read_ls(case: str, path: str, page: EntryPage | None = None) -> tuple[ls.LsReader, EntryPage]:
    page = page or build_page()
    reader = ls.LsReader(path, page.take)
    for line in read_recorded(case)[0]:
        reader.read(line)
    return reader, page


def read_find(case: str) -> tuple[find.FindReader, EntryPage]:
    page = build_page()
    reader = find.FindReader(page)
    for line in read_recorded(case)[0]:
        reader.read(line)
    return reader, page


def test_folder_is_listed_without_itself() -> None:
    reader, page = read_ls("ls-path", "/data/etc")

    assert (reader.has_snapshot, reader.has_path) == (True, True)
    assert [(entry.name, entry.type) for entry in page.entries] == [
        ("app.conf", "file"),
        ("new.conf", "file"),
        ("nginx", "dir"),
        ("secret.key", "file"),
    ]
    assert page.entries[0] == FileEntry(
        path="/data/etc/app.conf",
        name="app.conf",
        type="file",
        size=23,
        mode=0o644,
        mtime=datetime(2026, 11, 23, 2, 43, 11, 6234, tzinfo=UTC),
        uid=0,
        gid=0,
    )
    assert page.entries[2].size is None


def test_path_that_is_not_in_the_snapshot_is_told_from_an_empty_folder() -> None:
    absent, _ = read_ls("ls-path", "/nowhere")
    unknown, page = read_ls("ls-unknown-snapshot", "/")

    assert (absent.has_snapshot, absent.has_path) == (True, False)
    assert (unknown.has_snapshot, page.entries) == (False, [])


def test_everything_else_that_a_snapshot_can_hold_is_listed() -> None:
    _, page = read_ls("ls", "/")

    by_name = {entry.name: entry for entry in page.entries}
    assert {"file", "dir", "symlink", "fifo"} <= {entry.type for entry in page.entries}
    assert by_name["empty.txt"].size == 0
    assert by_name["new\nline.txt"].path == "/data/home/ana/new\nline.txt"


def test_nodes_of_restic_0_17_are_read_by_their_new_field() -> None:
    # restic 0.17 changelog, pull-4664: message_type beside struct_type, which is to go.
    page = build_page()
    reader = ls.LsReader("/etc", page.take)

    reader.read('{"message_type": "snapshot", "id": "d9c8cbca"}')
    reader.read('{"message_type": "node", "name": "hosts", "path": "/etc/hosts", "type": "file"}')

    assert (reader.has_snapshot, reader.has_path) == (True, True)
    assert [entry.path for entry in page.entries] == ["/etc/hosts"]


def test_special_permission_bits_are_those_of_chmod() -> None:
    # Recorded from restic 0.14.0: `drwxrwxrwt` of /tmp.
    entry = read_entry({"path": "/tmp", "type": "dir", "mode": 2148532735})
    odd = read_entry({"path": "/tmp", "type": "dir", "mode": -1, "uid": 2**40, "mtime": "soon"})

    assert entry is not None
    assert odd is not None
    assert entry.mode == 0o1777
    assert (odd.mode, odd.uid, odd.mtime) == (None, None, None)


def test_matches_of_a_search_have_owners_and_targets() -> None:
    reader, page = read_find("find-in-snapshot")

    link = page.entries[-1]
    assert reader.has_list
    assert [entry.name for entry in page.entries] == [
        "latin1-\ufffd\ufffd.txt",
        "メモ.md",
        "current",
    ]
    assert (link.type, link.link_target, link.user, link.group) == (
        "symlink",
        "releases/42",
        "root",
        "root",
    )
    assert link.mode == 0o777


def test_search_without_a_match_is_an_answer_too() -> None:
    reader, page = read_find("find-no-hits")

    assert (reader.has_list, page.entries, page.is_full) == (True, [], False)


def test_pages_put_together_are_the_whole_list() -> None:
    _, whole = read_ls("ls", "/")
    entries: list[FileEntry] = []
    page = build_page(limit=7)

    while True:
        read_ls("ls", "/", page)
        entries += page.entries
        if not page.is_full:
            break
        page = build_page(skip=len(entries), limit=7)

    assert entries == whole.entries


def test_page_is_cut_by_its_size_and_never_empty() -> None:
    size = len(msgspec.json.encode(read_ls("ls", "/")[1].entries[0]))

    _, small = read_ls("ls", "/", build_page(max_bytes=1))
    _, larger = read_ls("ls", "/", build_page(max_bytes=3 * size))

    assert (len(small.entries), small.is_full) == (1, True)
    assert 1 < len(larger.entries) <= 3


def test_command_lines_take_no_lock_and_no_option_from_an_operator() -> None:
    listing = ls.build_arguments(ListFiles(snapshot=HEX, path="/etc", is_recursive=True))
    search = find.build_arguments(FindFiles(snapshot=HEX, pattern="--help"))

    assert listing == ["ls", "--json", "--no-lock", "--recursive", "--", HEX, "/etc"]
    assert search == ["find", "--json", "--no-lock", f"--snapshot={HEX}", "--", "--help"]
