"""What a restore in place may touch."""

from __future__ import annotations

from pathlib import Path

import pytest

from backhaul.wire.kinds import RestoreArguments
from backhaul.wire.snapshots import FileEntry
from backhaul_agent.in_place import InPlaceRules, Survey, list_above
from backhaul_agent.policy import Policy
from backhaul_agent.settings import PolicySettings, Settings


def in_place(*include: str) -> RestoreArguments:
    return RestoreArguments(snapshot="0a1b2c3d", target="/", include=include, in_place=True)


def build_policy(*restore_paths: str, own: Path | None = None) -> Policy:
    settings = PolicySettings(restore_in_place=True, restore_paths=restore_paths)
    return Policy(settings, own_folders=[own] if own else [])


def entry(path: Path | str, type_: str = "file") -> FileEntry:
    return FileEntry(path=str(path), name=Path(path).name, type=type_, size=5)


@pytest.fixture
def free(tmp_path: Path) -> Path:
    folder = tmp_path / "free"
    (folder / "sub").mkdir(parents=True)
    return folder


@pytest.fixture
def rules(free: Path) -> InPlaceRules:
    return build_policy(str(free), own=free / "agent").in_place


def test_in_place_is_refused_unless_the_policy_allows_it() -> None:
    policy = Policy(PolicySettings(restore_paths=("/srv",)))

    assert policy.refusal(in_place("/srv/x")) == (
        "the policy of this host does not allow restores in place"
    )
    assert build_policy("/srv").refusal(in_place("/srv/x")) is None


@pytest.mark.parametrize(
    "include",
    [
        (),
        ("/",),
        ("/opt/x",),
        ("/srv/x", "/home"),
        ("srv/x",),
        ("/srv/*",),
        ("/srv/[x]",),
        ("/srv/../home",),
        ("/srv//x",),
        ("/srv/.ssh",),
        ("/srv/x/.ssh/authorized_keys",),
    ],
    ids=str,
)
def test_paths_that_are_not_given_free_are_refused(include: tuple[str, ...]) -> None:
    assert build_policy("/srv", "/").refusal(in_place(*include)) is not None


def test_all_of_the_file_system_is_no_name_of_a_folder() -> None:
    assert "/ is no such name" in (build_policy("/").refusal(in_place("/srv/x")) or "")


def test_system_folder_is_free_only_by_its_own_name() -> None:
    below, itself, above = (build_policy(name) for name in ("/etc/nginx", "/etc", "/var"))

    assert below.refusal(in_place("/etc/nginx/conf.d")) is None
    assert below.refusal(in_place("/etc/passwd")) is not None
    assert itself.refusal(in_place("/etc/passwd")) is None
    assert above.refusal(in_place("/var/www")) is None
    assert above.refusal(in_place("/var/spool/cron/crontabs")) is not None


def test_files_of_the_agent_are_protected_wherever_they_are(
    rules: InPlaceRules, free: Path
) -> None:
    (free / "link").symlink_to(free / "agent")

    assert rules.include_refusal(str(free)) is None
    assert rules.include_refusal(str(free / "agent")) is not None
    assert rules.entry_refusal(entry(free / "agent/identity.json")) is not None
    assert rules.entry_refusal(entry(free / "link/identity.json")) is not None
    assert rules.entry_refusal(entry(free / "agents")) is None


def test_agent_counts_its_settings_and_its_program_among_its_own(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", file=tmp_path / "agent.toml")

    own = settings.own_folders

    assert {tmp_path / "state", tmp_path / "agent.toml", Path("/etc/backhaul")} <= set(own)
    assert any(Path(__file__).parents[3].joinpath("agent") in folder.parents for folder in own)


def test_what_restic_would_write_through_a_link_is_judged_by_where_that_leads(
    rules: InPlaceRules, free: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (free / "folder").symlink_to(tmp_path / "outside")
    (free / "file").symlink_to(tmp_path / "outside/file")

    assert rules.entry_refusal(entry(free / "folder/x")) is not None
    assert rules.entry_refusal(entry(free / "folder", "dir")) is not None
    assert rules.entry_refusal(entry(free / "file")) is not None
    # A link takes the place of the other.
    assert rules.entry_refusal(entry(free / "file", "symlink")) is None
    assert rules.entry_refusal(entry(free / "sub/file")) is None


def test_name_that_is_not_known_in_full_is_refused(rules: InPlaceRules, free: Path) -> None:
    assert rules.entry_refusal(entry(f"{free}/\N{REPLACEMENT CHARACTER}")) is not None
    assert rules.entry_refusal(entry(f"{free}/../x")) is not None


def test_survey_counts_what_there_is_and_keeps_the_first_objection(
    rules: InPlaceRules, free: Path
) -> None:
    survey = Survey(rules)

    for one in (entry(free / "sub", "dir"), entry(free / "a"), entry(free / "agent/b"), entry("/")):
        survey.take(one)

    assert (survey.files, survey.bytes, survey.is_empty) == (3, 15, False)
    assert f"restoring {free}/agent/b in place" in (survey.refusal or "")


def test_only_folders_above_what_is_free_must_be_as_they_were(
    rules: InPlaceRules, free: Path, tmp_path: Path
) -> None:
    above = list_above([str(free / "sub/file")], rules)

    assert above[-1] == str(tmp_path)
    assert str(free) not in above
    assert rules.above_refusal(entry(free, "dir")) is None
    assert "has another mode or owner" in (rules.above_refusal(entry(tmp_path, "dir")) or "")
