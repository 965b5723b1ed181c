"""What a host lets the server do."""

from __future__ import annotations

from pathlib import Path

import pytest

from backhaul.wire.kinds import (
    BackupArguments,
    CheckArguments,
    ForgetArguments,
    InitArguments,
    JobKind,
    PruneArguments,
    RestoreArguments,
    Retention,
    SnapshotsArguments,
)
from backhaul_agent.policy import Policy
from backhaul_agent.settings import DumpSettings, PolicySettings


def test_everything_is_allowed_by_default(tmp_path: Path) -> None:
    policy = Policy(PolicySettings())

    for arguments in (
        InitArguments(),
        BackupArguments(paths=("/etc", "/")),
        SnapshotsArguments(),
        RestoreArguments(snapshot="latest", target=str(tmp_path / "new")),
        ForgetArguments(tag="nightly", keep=Retention(keep_last=1)),
        PruneArguments(),
        CheckArguments(),
    ):
        assert policy.refusal(arguments) is None


def test_kind_outside_the_policy_is_refused() -> None:
    policy = Policy(PolicySettings(kinds=(JobKind.BACKUP,)))

    assert policy.refusal(InitArguments()) == "the policy of this host does not allow init jobs"
    assert policy.refusal(PruneArguments()) == "the policy of this host does not allow prune jobs"
    assert policy.refusal(BackupArguments(paths=("/etc",))) is None


@pytest.mark.parametrize(
    "path", ["/home", "/etcetera", "/etc/../home", "etc", "", "/", "//home", "/etc\x00"]
)
def test_backup_of_another_path_is_refused(path: str) -> None:
    policy = Policy(PolicySettings(backup_paths=("/etc", "/srv")))

    assert policy.refusal(BackupArguments(paths=("/srv/x", path))) is not None


def test_exclude_file_outside_of_what_may_be_backed_up_is_refused() -> None:
    policy = Policy(PolicySettings(backup_paths=("/srv",)))

    def refusal(file: str) -> str | None:
        return policy.refusal(BackupArguments(paths=("/srv/x",), exclude_files=(file,)))

    assert refusal("/srv/patterns") is None
    assert refusal("/etc/shadow") == "the policy of this host does not allow backups of /etc/shadow"


def test_dump_is_allowed_by_being_defined() -> None:
    dumps = {"db": DumpSettings(command=("pg_dumpall",))}
    policy = Policy(PolicySettings(backup_paths=("/srv",)), dumps=dumps)

    assert policy.refusal(BackupArguments(paths=(), dump="db")) is None
    assert policy.refusal(BackupArguments(paths=(), dump="other")) == (
        "this host has no dump called 'other'; its settings file defines db"
    )
    assert policy.refusal(BackupArguments(paths=("/srv",), dump="db")) is not None


def test_backup_through_a_link_out_of_the_allowed_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed" / "link").symlink_to("/etc")
    policy = Policy(PolicySettings(backup_paths=(str(tmp_path / "allowed"),)))

    assert policy.refusal(BackupArguments(paths=(str(tmp_path / "allowed/link"),))) is not None


def test_backup_without_paths_is_refused() -> None:
    assert Policy(PolicySettings()).refusal(BackupArguments(paths=())) is not None


@pytest.mark.parametrize("exclude", ["a\x00b"])
def test_argument_that_no_command_line_can_hold_is_refused(exclude: str) -> None:
    arguments = BackupArguments(paths=("/etc",), excludes=(exclude,))

    assert Policy(PolicySettings()).refusal(arguments) is not None


def test_target_must_be_new_or_empty(tmp_path: Path) -> None:
    policy = Policy(PolicySettings())
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "empty")

    assert policy.target_refusal(str(tmp_path / "new")) is None
    assert policy.target_refusal(str(tmp_path / "empty")) is None
    for name in ("full", "full/file", "link"):
        assert policy.target_refusal(str(tmp_path / name)) is not None
    assert policy.target_refusal("relative") is not None


def test_restore_outside_the_policy_is_refused(tmp_path: Path) -> None:
    policy = Policy(PolicySettings(restore_paths=(str(tmp_path / "restore"),)))

    assert policy.target_refusal(str(tmp_path / "restore/a")) is None
    assert policy.target_refusal(str(tmp_path / "restore/../other")) is not None


@pytest.mark.parametrize(
    "target",
    ["/etc/systemd/system/ssh.service.d", "/usr/local/bin/new", "/root/.ssh", "/home/ada/.ssh/new"],
)
def test_restores_stay_out_of_what_the_host_lives_by(target: str) -> None:
    assert "how this host works" in (Policy(PolicySettings()).target_refusal(target) or "")


def test_a_system_folder_that_the_policy_names_may_be_restored_to(tmp_path: Path) -> None:
    policy = Policy(PolicySettings(restore_paths=("/etc/restored", "/")))

    assert policy.target_refusal("/etc/restored/new") is None
    assert policy.target_refusal("/etc/other") is not None


def test_the_agents_own_folders_are_never_restored_to(tmp_path: Path) -> None:
    policy = Policy(PolicySettings(restore_paths=(str(tmp_path),)), own_folders=[tmp_path / "own"])

    assert policy.target_refusal(str(tmp_path / "own/cache")) is not None
    assert policy.target_refusal(str(tmp_path / "else")) is None


def test_preparing_a_target_makes_a_private_folder(tmp_path: Path) -> None:
    target = tmp_path / "a/b"

    assert Policy(PolicySettings()).prepare_target(str(target)) is None
    assert target.stat().st_mode & 0o777 == 0o700


def test_a_link_in_the_place_of_the_target_is_seen_right_before_the_restore(tmp_path: Path) -> None:
    (tmp_path / "allowed").mkdir()
    (tmp_path / "outside").mkdir()
    policy = Policy(PolicySettings(restore_paths=(str(tmp_path / "allowed"),)))
    target = tmp_path / "allowed/new"
    assert policy.target_refusal(str(target)) is None

    target.symlink_to(tmp_path / "outside")

    assert policy.prepare_target(str(target)) is not None
