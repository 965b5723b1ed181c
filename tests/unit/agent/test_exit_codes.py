"""What an exit of restic means, by version and by words."""

from __future__ import annotations

import pytest

from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import JobKind
from backhaul_agent.restic.exit_codes import interpret, pick_message
from backhaul_agent.restic.version import ResticVersion
from tests.unit.agent.hosts import read_recorded

V14, V17, V171 = ResticVersion(0, 14, 0), ResticVersion(0, 17, 0), ResticVersion(0, 17, 1)
F = FailureClass


@pytest.mark.parametrize(
    ("case", "kind", "expected"),
    [
        ("wrong-password-backup", JobKind.BACKUP, F.WRONG_PASSWORD),
        ("no-keys", JobKind.BACKUP, F.WRONG_PASSWORD),
        ("missing-repo-backup", JobKind.BACKUP, F.REPOSITORY_MISSING),
        ("rest-missing-repo", JobKind.BACKUP, F.REPOSITORY_MISSING),
        ("sftp-missing-repo", JobKind.BACKUP, F.REPOSITORY_MISSING),
        ("s3-missing-repo", JobKind.BACKUP, F.REPOSITORY_MISSING),
        ("s3-missing-bucket", JobKind.BACKUP, F.REPOSITORY_MISSING),
        ("rest-wrong-credentials", JobKind.BACKUP, F.OTHER),
        ("sftp-wrong-key", JobKind.BACKUP, F.OTHER),
        ("sftp-wrong-host-key", JobKind.BACKUP, F.OTHER),
        ("sftp-server-down", JobKind.BACKUP, F.OTHER),
        ("s3-wrong-credentials", JobKind.BACKUP, F.OTHER),
        ("rest-server-down", JobKind.BACKUP, F.NETWORK),
        ("rest-host-unknown", JobKind.BACKUP, F.NETWORK),
        ("rest-tls-unknown-ca", JobKind.BACKUP, F.NETWORK),
        ("rest-proxy-down", JobKind.BACKUP, F.NETWORK),
        ("rest-server-dies-mid-backup", JobKind.BACKUP, F.NETWORK),
        ("s3-server-down", JobKind.BACKUP, F.NETWORK),
        ("locked-exclusive-backup", JobKind.BACKUP, F.LOCKED),
        ("locked-exclusive-restore", JobKind.RESTORE, F.LOCKED),
        ("locked-shared-check", JobKind.SNAPSHOTS, F.LOCKED),
        ("backup-repo-disk-full", JobKind.BACKUP, F.NO_SPACE),
        ("restore-target-full", JobKind.RESTORE, F.NO_SPACE),
        ("backup-nonexistent-path", JobKind.BACKUP, F.SOURCE_MISSING),
        ("init-already-existing", JobKind.INIT, F.REPOSITORY_EXISTS),
        ("restore-damaged-pack-json", JobKind.RESTORE, F.DAMAGED),
        ("config-zero-size", JobKind.SNAPSHOTS, F.DAMAGED),
        ("config-damaged", JobKind.SNAPSHOTS, F.DAMAGED),
        ("restore-unknown-snapshot", JobKind.RESTORE, F.SNAPSHOT_MISSING),
        ("repo-read-only-backup", JobKind.BACKUP, F.OTHER),
        ("signal-sigint-backup", JobKind.BACKUP, F.INTERRUPTED),
        ("signal-sigterm-backup", JobKind.BACKUP, F.INTERRUPTED),
    ],
)
def test_recorded_failure_has_its_class(case: str, kind: JobKind, expected: F) -> None:
    _, stderr, exit_code = read_recorded(case)

    verdict = interpret(exit_code, version=V14, kind=kind, stderr=stderr)

    assert verdict.outcome is Outcome.FAILED
    assert verdict.failure_class is expected


@pytest.mark.parametrize(
    ("code", "version", "kind", "outcome", "failure_class"),
    [
        (0, V14, JobKind.BACKUP, Outcome.SUCCEEDED, None),
        (0, None, JobKind.INIT, Outcome.SUCCEEDED, None),
        (3, V14, JobKind.BACKUP, Outcome.INCOMPLETE, None),
        (3, V14, JobKind.RESTORE, Outcome.FAILED, F.OTHER),
        (10, V14, JobKind.BACKUP, Outcome.FAILED, F.OTHER),
        (10, V17, JobKind.BACKUP, Outcome.FAILED, F.REPOSITORY_MISSING),
        (11, V17, JobKind.BACKUP, Outcome.FAILED, F.LOCKED),
        (12, V17, JobKind.BACKUP, Outcome.FAILED, F.OTHER),
        (12, V171, JobKind.BACKUP, Outcome.FAILED, F.WRONG_PASSWORD),
        (12, None, JobKind.BACKUP, Outcome.FAILED, F.OTHER),
        (2, V171, JobKind.BACKUP, Outcome.FAILED, F.OTHER),
        (99, V171, JobKind.BACKUP, Outcome.FAILED, F.OTHER),
        (130, V14, JobKind.BACKUP, Outcome.FAILED, F.INTERRUPTED),
        (-9, V14, JobKind.BACKUP, Outcome.FAILED, F.INTERRUPTED),
    ],
)
def test_code_means_what_the_version_says(
    code: int,
    version: ResticVersion | None,
    kind: JobKind,
    outcome: Outcome,
    failure_class: F | None,
) -> None:
    verdict = interpret(code, version=version, kind=kind)

    assert (verdict.outcome, verdict.failure_class) == (outcome, failure_class)


def test_a_retry_that_worked_does_not_explain_a_later_failure() -> None:
    stderr = [
        "Save(<data/1>) returned error, retrying after 1s: connection refused",
        "Fatal: unable to save snapshot: no space left on device",
    ]

    assert interpret(1, version=V14, kind=JobKind.BACKUP, stderr=stderr).failure_class is F.NO_SPACE


def test_message_is_what_restic_says_at_the_end() -> None:
    _, stderr, _ = read_recorded("missing-repo-backup")

    message = pick_message(stderr)

    assert message is not None
    assert message.startswith("Fatal: unable to open config file")
    assert message.endswith("/repo")


def test_message_leaves_stack_traces_out() -> None:
    _, stderr, _ = read_recorded("config-zero-size")

    message = pick_message(stderr)

    assert message is not None
    assert message.startswith("config file has zero size")
    assert "global.go" not in message


def test_message_of_later_versions_is_taken_out_of_its_json() -> None:
    line = '{"message_type":"exit_error","code":12,"message":"Fatal: wrong password"}'

    assert pick_message([line]) == "Fatal: wrong password"
