"""Record what a restic prints, in the form of tests/data/restic, for tests to play and to read.

    .venv/bin/python -m tools.record_restic /path/to/restic

Writes tests/data/restic-VERSION anew: one folder for each case, with the command line, the output
and the exit code. Everything is a real run, on a repository in /tmp/backhaul-recording, in
namespaces in which the host is called web-1 and in which root, too, may not read what the mode of
a file denies. Needs Linux, util-linux and rclone (from requirements/dev.lock). Nothing is edited
but the passwords of the REST servers, which become `***` wherever they stand.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from backhaul_agent.restic.version import parse_version
from tests.fakes.rest_server import run_rest_server

DATA = Path(__file__).parents[1] / "tests" / "data"
PLACE = Path("/tmp/backhaul-recording")  # noqa: S108 (stands in the recordings)
HOSTNAME = "web-1"

_LIMIT_S = 120.0
_HOLE_BYTES = 1 << 40
"""A file of holes: restic reads it for minutes, and it takes no space."""
_SMALL_DISK_BYTES = 256 * 1024

_NO_ENVIRONMENT: Mapping[str, str] = MappingProxyType({})

_INSIDE = "--inside"
_NAMESPACES = ["unshare", "--user", "--map-root-user", "--uts", "--mount", "--"]
_POWERLESS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]


class Recorder:
    """Runs one restic and keeps what it says."""

    def __init__(self, restic: Path, folder: Path) -> None:
        self._restic = str(restic)
        self._folder = folder
        self._secrets: list[str] = []
        self._password = PLACE / "password"

    def run(
        self,
        case: str,
        *arguments: str,
        environment: Mapping[str, str] = _NO_ENVIRONMENT,
        note: str = "",
        interrupt: tuple[bytes, signal.Signals] | None = None,
    ) -> str:
        """Run restic to its end and write the case down; gives its stdout.

        `interrupt` names a signal, and the words on stdout after which it is sent.
        """
        restic = self._start(arguments, environment)
        seen = b""
        if interrupt is not None:
            words, number = interrupt
            assert restic.stdout is not None
            while words not in seen:
                seen += restic.stdout.readline()
            restic.send_signal(number)
        stdout, stderr = restic.communicate(timeout=_LIMIT_S)
        folder = self._folder / case
        folder.mkdir()
        self._keep(folder / "argv.txt", "\n".join(["restic", *arguments, ""]).encode())
        if environment:
            lines = [f"{name}={text}\n" for name, text in environment.items()]
            self._keep(folder / "env.txt", "".join(lines).encode())
        suffix = "jsonl" if _is_json(seen + stdout) else "txt"
        self._keep(folder / f"stdout.{suffix}", seen + stdout)
        self._keep(folder / "stderr.txt", stderr)
        self._keep(folder / "exit.txt", f"{restic.returncode}\n".encode())
        if note:
            self._keep(folder / "note.txt", f"{note}\n".encode())
        return (seen + stdout).decode(errors="replace")

    def quiet(self, *arguments: str, environment: Mapping[str, str] = _NO_ENVIRONMENT) -> str:
        """Run restic for what it does; nothing is written down."""
        restic = self._start(arguments, environment)
        stdout, stderr = restic.communicate(timeout=_LIMIT_S)
        if restic.returncode != 0:
            raise AssertionError(f"{arguments}: {stderr.decode(errors='replace')}")
        return stdout.decode(errors="replace")

    @contextmanager
    def holding_lock(self, *, is_exclusive: bool) -> Iterator[subprocess.Popen[bytes]]:
        """Keep a restic that has its lock, and stands still."""
        arguments = ["check", "--read-data"] if is_exclusive else ["backup", "--stdin"]
        restic = self._start(arguments, {}, stdin=subprocess.PIPE)
        _wait_for_lock(PLACE / "repo")
        if is_exclusive:
            restic.send_signal(signal.SIGSTOP)
        try:
            yield restic
        finally:
            restic.kill()
            restic.communicate()

    def hide(self, secret: str) -> None:
        self._secrets.append(secret)

    def _start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        defaults = {
            "PATH": os.environ["PATH"],
            "HOME": str(PLACE / "home"),
            "LANG": "C.UTF-8",
            "RESTIC_REPOSITORY": str(PLACE / "repo"),
            "RESTIC_PASSWORD_FILE": str(self._password),
            "RESTIC_CACHE_DIR": str(PLACE / "cache"),
            "RESTIC_PROGRESS_FPS": "1",
        }
        return subprocess.Popen(
            [self._restic, *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**defaults, **environment},
            cwd=PLACE,
        )

    def _keep(self, file: Path, content: bytes) -> None:
        for secret in self._secrets:
            content = content.replace(secret.encode(), b"***")
        file.write_bytes(content)


def _is_json(stdout: bytes) -> bool:
    lines = stdout.splitlines()
    try:
        return bool(lines) and all(isinstance(json.loads(line), dict | list) for line in lines)
    except ValueError:
        return False


def _wait_for_lock(repository: Path) -> None:
    deadline = time.monotonic() + _LIMIT_S
    # A lock that is being written has a longer name.
    while not any(len(file.name) == 64 for file in (repository / "locks").glob("*")):
        assert time.monotonic() < deadline, "restic takes no lock"
        time.sleep(0.005)


def record_all(recorder: Recorder) -> None:
    """Record every case. Each group begins with what the one before has left."""
    _make_tree()
    _record_beginnings(recorder)
    _record_backups(recorder)
    _record_reading(recorder)
    _record_keys(recorder)
    _record_locks(recorder)
    _record_interrupts(recorder)
    _record_forgetting(recorder)
    _record_append_only(recorder)
    _record_damage(recorder)
    _record_full_disk(recorder)


def _make_tree() -> None:
    (PLACE / "home").mkdir()
    (PLACE / "password").write_text("not a secret\n")
    (PLACE / "wrong").write_text("wrong\n")
    tree = PLACE / "data"
    (tree / "etc").mkdir(parents=True)
    (tree / "empty").mkdir()
    (tree / "etc" / "app.conf").write_text("port = 8440\n")
    (tree / "etc" / "Grüße & <co>").write_text("a name beyond ASCII\n")
    (tree / "etc" / "link").symlink_to("app.conf")
    # The same at each recording, so that only what restic makes differs.
    (tree / "random").write_bytes(random.Random(7).randbytes(200_000))  # noqa: S311


def _record_beginnings(recorder: Recorder) -> None:
    recorder.run("version", "version")
    recorder.run("version-json", "version", "--json")
    tree = str(PLACE / "data")
    recorder.run("missing-repo-backup", "backup", "--json", "--", tree)
    recorder.run("missing-repo-snapshots", "snapshots", "--json")
    recorder.run("init-json", "init", "--json")
    recorder.run("init-already-existing", "init", "--json")
    recorder.run("snapshots-empty-repo", "snapshots", "--json")
    recorder.run(
        "forget-empty-repo", "forget", "--json", "--tag=etc", "--group-by=host", "--keep-last=1"
    )
    wrong = {"RESTIC_PASSWORD_FILE": str(PLACE / "wrong")}
    recorder.run("wrong-password-backup", "backup", "--json", "--", tree, environment=wrong)
    recorder.run("wrong-password-snapshots", "snapshots", "--json", environment=wrong)


def _backup(*paths: str) -> list[str]:
    tags = ["--tag=etc"]
    return ["backup", "--json", "--cleanup-cache", f"--host={HOSTNAME}", *tags, "--", *paths]


def _record_backups(recorder: Recorder) -> None:
    tree = PLACE / "data"
    recorder.run("backup-first", *_backup(str(tree)))
    recorder.run("backup-unchanged", *_backup(str(tree)))
    recorder.run("backup-empty-dir", *_backup(str(tree / "empty")))
    recorder.run("backup-dry-run", "backup", "--json", "--dry-run", "--", str(tree))
    recorder.run("backup-nonexistent-path", *_backup(str(tree / "nowhere")))
    recorder.run("backup-one-path-missing", *_backup(str(tree / "etc"), str(tree / "nowhere")))
    denied, private = tree / "etc" / "denied", tree / "private"
    denied.write_text("denied\n")
    denied.chmod(0)
    private.mkdir(mode=0)
    recorder.run("backup-partial-exit3", *_backup(str(tree)))
    denied.unlink()
    private.rmdir()
    (tree / "etc" / "app.conf").write_text("port = 8441\n")
    recorder.run("backup-changed", *_backup(str(tree)))
    cat = ["--stdin-filename=dump.sql", "--stdin-from-command", "--"]
    recorder.run("backup-stdin-command", *_backup()[:-1], *cat, "echo", "dumped")
    recorder.run("backup-stdin-command-fails", *_backup()[:-1], *cat, "sh", "-c", "echo x; exit 5")


def _record_reading(recorder: Recorder) -> None:
    listed = json.loads(recorder.run("snapshots-several", "snapshots", "--json"))
    first, last = listed[0]["id"], listed[-2]["id"]
    etc = str(PLACE / "data" / "etc")
    recorder.run("snapshots-latest", "snapshots", "--json", f"--host={HOSTNAME}", "--", "latest")
    recorder.run("snapshots-unknown-id", "snapshots", "--json", "--", "deadbeefdeadbeef")
    recorder.run("ls-path", "ls", "--json", "--no-lock", "--", first, etc)
    recorder.run("ls", "ls", "--json", "--no-lock", "--recursive", "--", first, "/")
    recorder.run("ls-unknown-path", "ls", "--json", "--no-lock", "--", first, "/nowhere")
    recorder.run("ls-unknown-snapshot", "ls", "--json", "--no-lock", "--", "deadbeefdeadbeef", "/")
    find = ["find", "--json", "--no-lock"]
    recorder.run("find-in-snapshot", *find, f"--snapshot={first}", "--", "app*")
    recorder.run("find-no-hits", *find, f"--snapshot={first}", "--", "nowhere*")
    recorder.run("find-unknown-snapshot", *find, "--snapshot=deadbeefdeadbeef", "--", "app*")
    recorder.run("dump-file", "dump", "--", first, f"{etc}/app.conf")
    recorder.run("dump-missing-file", "dump", "--", first, f"{etc}/nowhere")
    recorder.run("diff-json", "diff", "--json", first, last)
    recorder.run("diff-unknown-id", "diff", "--json", first, "deadbeefdeadbeef")
    recorder.run("stats-restore-size", "stats", "--json", "--mode=restore-size")
    recorder.run("stats-raw-data", "stats", "--json", "--mode=raw-data")
    recorder.run("cat-config", "cat", "config")
    restore = ["restore", "--json"]
    recorder.run("restore-json", *restore, f"--target={PLACE}/restored", "--verify", "--", first)
    recorder.run(
        "restore-include-no-match",
        *(*restore, f"--target={PLACE}/nothing", "--include=/nowhere", "--", first),
    )
    recorder.run(
        "restore-unknown-snapshot", *restore, f"--target={PLACE}/no", "--", "deadbeefdeadbeef"
    )
    second = {
        "RESTIC_REPOSITORY": str(PLACE / "second"),
        "RESTIC_FROM_REPOSITORY": str(PLACE / "repo"),
        "RESTIC_FROM_PASSWORD_FILE": str(PLACE / "password"),
    }
    recorder.quiet("init", "--copy-chunker-params", environment=second)
    recorder.run("copy-first", "copy", environment=second)
    recorder.run("copy-again", "copy", environment=second)


def _record_keys(recorder: Recorder) -> None:
    (PLACE / "new").write_text("not a secret either\n")
    before = {key["id"] for key in json.loads(recorder.run("key-list", "key", "list", "--json"))}
    recorder.run("key-add", "key", "add", f"--new-password-file={PLACE}/new")
    keys = json.loads(recorder.quiet("key", "list", "--json"))
    (added,) = [key["id"] for key in keys if key["id"] not in before]
    (current,) = before
    recorder.run("key-remove-current", "key", "remove", current)
    recorder.run("key-remove", "key", "remove", added)
    recorder.run("key-passwd", "key", "passwd", f"--new-password-file={PLACE}/password")


def _record_locks(recorder: Recorder) -> None:
    tree = str(PLACE / "data")
    forget = ["forget", "--json", "--tag=etc", "--group-by=host", "--keep-last=1"]
    with recorder.holding_lock(is_exclusive=False):
        recorder.run("locked-shared-check", "check")
        recorder.run("locked-shared-forget", *forget, "--dry-run")
        recorder.run("locked-shared-prune", "prune")
        recorder.run("unlock-live-lock", "unlock")
        recorder.run("list-locks", "list", "locks", "--no-lock")
        recorder.run("unlock-remove-all", "unlock", "--remove-all")
    recorder.run("list-locks-none", "list", "locks", "--no-lock")
    with recorder.holding_lock(is_exclusive=True) as restic:
        recorder.run("locked-exclusive-backup", *_backup(tree))
        recorder.run(
            "locked-exclusive-restore", "restore", "--json", f"--target={PLACE}/no", "--", "latest"
        )
        recorder.run("locked-exclusive-snapshots", "snapshots", "--json")
        recorder.run("locked-exclusive-ls", "ls", "--json", "--no-lock", "--", "latest", "/")
        restic.kill()
    recorder.run("stale-lock-unlock", "unlock")


def _record_interrupts(recorder: Recorder) -> None:
    hole = PLACE / "data" / "hole"
    with hole.open("wb") as file:
        file.truncate(_HOLE_BYTES)
    backup = _backup(str(PLACE / "data"))
    recorder.run("signal-sigint-backup", *backup, interrupt=(b"status", signal.SIGINT))
    recorder.quiet("unlock")
    recorder.run("signal-sigterm-backup", *backup, interrupt=(b"status", signal.SIGTERM))
    recorder.quiet("unlock")
    hole.unlink()
    recorder.run("signal-sigint-check", "check", interrupt=(b"load indexes", signal.SIGINT))
    recorder.quiet("unlock")


def _record_forgetting(recorder: Recorder) -> None:
    forget = ["forget", "--json", "--tag=etc", "--group-by=host"]
    recorder.run("forget-dry-run", *forget, "--keep-last=1", "--dry-run")
    recorder.run("forget-keep-tag-typo-dry-run", *forget, "--keep-tag=typo", "--dry-run")
    recorder.run("forget-no-policy", *forget)
    recorder.run("forget-nothing-to-remove", *forget, "--keep-last=100")
    recorder.run("forget-real", *forget, "--keep-last=1")
    listed = json.loads(recorder.quiet("snapshots", "--json"))
    recorder.run("forget-by-id", "forget", "--json", "--", listed[0]["id"])
    recorder.run("forget-unknown-id", "forget", "--json", "--", "deadbeefdeadbeef")
    recorder.quiet("backup", "--tag=etc", f"--host={HOSTNAME}", str(PLACE / "data"))
    recorder.run("prune", "prune")
    recorder.run("prune-nothing-to-do", "prune")
    recorder.run("prune-json", "prune", "--json")
    recorder.run("check-ok", "check")
    recorder.run("check-ok-json", "check", "--json")
    recorder.run("check-read-data-subset", "check", "--read-data-subset=1/1")


def _record_append_only(recorder: Recorder) -> None:
    note = "The server is `rclone serve restic --append-only`."
    files = PLACE / "append-only"
    local = {"RESTIC_REPOSITORY": str(files)}
    recorder.quiet("init", environment=local)
    for name in ("etc", "empty", "etc"):
        recorder.quiet(*_backup(str(PLACE / "data" / name)), environment=local)
    with run_rest_server(files, is_append_only=True) as server:
        recorder.hide(server.location.split(":")[3].split("@")[0])
        rest = {"RESTIC_REPOSITORY": server.location}
        backup = _backup(str(PLACE / "data"))
        recorder.run("rest-append-only-backup", *backup, environment=rest, note=note)
        recorder.run("rest-append-only-unlock", "unlock", environment=rest, note=note)
        forget = ["forget", "--json", "--tag=etc", "--group-by=host", "--keep-last=1"]
        recorder.run("rest-append-only-forget", *forget, environment=rest, note=note)
        snapshot = json.loads(recorder.quiet("snapshots", "--json", environment=local))[-1]
        recorder.quiet("forget", snapshot["id"], environment=local)
        recorder.run("rest-append-only-prune", "prune", environment=rest, note=note)
        wrong = {"RESTIC_REPOSITORY": server.location.replace("backup:", "somebody:")}
        recorder.run("rest-wrong-credentials", "snapshots", "--json", environment=wrong)
        missing = {"RESTIC_REPOSITORY": f"{server.location}nowhere/"}
        recorder.run("rest-missing-repo", "snapshots", "--json", environment=missing)


def _record_damage(recorder: Recorder) -> None:
    repository = PLACE / "repo"
    # What is whole in the cache is read from there, and the damage not seen.
    shutil.rmtree(PLACE / "cache")
    packs = sorted((repository / "data").rglob("*"), key=lambda file: file.stat().st_size)
    pack = packs[-1]
    whole = pack.read_bytes()
    _replace(pack, whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    recorder.run("check-damaged-pack-not-seen", "check")
    recorder.run("check-damaged-pack-read-data", "check", "--read-data-subset=1/1")
    recorder.run("check-damaged-pack-read-data-json", "check", "--json", "--read-data")
    recorder.run(
        "restore-damaged-pack-json", "restore", "--json", f"--target={PLACE}/hurt", "--", "latest"
    )
    _replace(pack, whole[: len(whole) // 2])
    recorder.run("check-truncated-pack", "check", "--read-data-subset=1/1")
    pack.unlink()
    recorder.run("check-missing-pack", "check")
    recorder.run("prune-missing-pack", "prune")
    _replace(pack, whole)
    snapshot = sorted((repository / "snapshots").iterdir())[0]
    kept = snapshot.read_bytes()
    _replace(snapshot, kept[:20] + bytes([kept[20] ^ 1]) + kept[21:])
    shutil.rmtree(PLACE / "cache")
    recorder.run("snapshots-damaged-snapshot-file", "snapshots", "--json")
    recorder.run("check-damaged-snapshot-file", "check")
    _replace(snapshot, kept)
    config = repository / "config"
    kept = config.read_bytes()
    _replace(config, kept[:20] + bytes([kept[20] ^ 1]) + kept[21:])
    recorder.run("config-damaged", "snapshots", "--json")
    _replace(config, b"")
    recorder.run("config-zero-size", "snapshots", "--json")
    _replace(config, kept)


def _replace(file: Path, content: bytes) -> None:
    """Write a file of the repository, which restic makes read-only."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def _record_full_disk(recorder: Recorder) -> None:
    small = PLACE / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SMALL_DISK_BYTES}", "small", str(small)]
    subprocess.run(mount, check=True)
    target = str(small / "restored")
    note = f"What it writes to is a tmpfs of {_SMALL_DISK_BYTES} bytes."
    (small / "filler").write_bytes(secrets.token_bytes(_SMALL_DISK_BYTES // 2))
    recorder.run(
        "restore-target-full", "restore", "--json", f"--target={target}", "--", "latest", note=note
    )
    shutil.rmtree(target, ignore_errors=True)
    (small / "filler").unlink()
    full = {"RESTIC_REPOSITORY": str(small / "repo")}
    recorder.quiet("init", environment=full)
    (PLACE / "data" / "large").write_bytes(secrets.token_bytes(2 * _SMALL_DISK_BYTES))
    backup = _backup(str(PLACE / "data"))
    recorder.run("backup-repo-disk-full", *backup, environment=full, note=note)


def _record_inside(restic: Path) -> None:
    """Record, in namespaces of our own."""
    subprocess.run(["hostname", HOSTNAME], check=True)
    version = parse_version(subprocess.check_output([restic, "version"], text=True))
    assert version is not None, f"{restic} is not restic"
    folder = DATA / f"restic-{version}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    try:
        record_all(Recorder(restic, folder))
    finally:
        with contextlib.suppress(OSError):
            subprocess.run(["umount", str(PLACE / "small")], check=False, capture_output=True)
        shutil.rmtree(PLACE, ignore_errors=True)
    sys.stdout.write(f"{folder} has {len(list(folder.iterdir()))} cases\n")


def main() -> int:
    *inside, name = sys.argv[1:] or [""]
    restic = shutil.which(name)
    if restic is None:
        sys.stderr.write("usage: python -m tools.record_restic /path/to/restic\n")
        return 2
    if inside == [_INSIDE]:
        _record_inside(Path(restic))
        return 0
    again = [sys.executable, "-m", "tools.record_restic", _INSIDE, restic]
    return subprocess.run([*_NAMESPACES, *_POWERLESS, *again], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
