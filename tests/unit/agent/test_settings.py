"""Where the agent's settings come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from backhaul.wire.kinds import JobKind
from backhaul_agent.errors import SettingsError
from backhaul_agent.settings import load_settings


def write(folder: Path, text: str) -> Path:
    file = folder / "agent.toml"
    file.write_text(text)
    return file


def test_options_win_over_variables_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, 'restic = "/file"\npoll_hold = 5\nlog_level = "debug"\n')
    environment = {"BACKHAUL_AGENT_RESTIC": "/variable", "BACKHAUL_AGENT_POLL_HOLD": "7.5"}

    settings = load_settings(environment, file=file, restic="/option", state_dir=tmp_path)

    assert settings.restic == "/option"
    assert settings.poll_hold == 7.5
    assert settings.log_level == "debug"
    assert settings.effective_cache_dir == tmp_path / "cache"


def test_paths_are_absolute_and_restic_is_found_once(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "restic"
    program.parent.mkdir()
    program.touch(mode=0o755)
    environment = {"BACKHAUL_AGENT_STATE_DIR": "state", "PATH": f"/nowhere:{program.parent}"}

    settings = load_settings(environment)

    assert settings.state_dir == Path.cwd() / "state"
    assert settings.restic == str(program)


def test_policy_comes_from_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, '[policy]\nkinds = ["backup"]\nbackup_paths = ["/etc"]\n')

    settings = load_settings({}, file=file)

    policy = settings.policy
    assert settings.file == file
    assert policy.kinds == (JobKind.BACKUP,)
    assert policy.backup_paths == ("/etc",)
    assert policy.restore_paths == ("/",)
    assert policy.restore_in_place is False


def test_dumps_come_from_the_file_and_show_no_arguments(tmp_path: Path) -> None:
    file = write(tmp_path, '[dumps.db]\ncommand = ["pg_dumpall", "--secret"]\ntimeout = 60\n')

    dump = load_settings({}, file=file).dumps["db"]

    assert (dump.command, dump.file_name, dump.timeout) == (("pg_dumpall", "--secret"), None, 60.0)
    assert "--secret" not in repr(dump)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rstic = 1", "rstic"),
        ("[policy]\nkind = []", "kind"),
        ("[dumps.db]\ncommand = []", "command"),
        ('[dumps.db]\ncommand = ["bin/dump"]', "bin/dump"),
        ('[dumps.db]\ncommand = "pg_dumpall"', "command"),
        ('[dumps."a b"]\ncommand = ["true"]', "dumps"),
        ('[dumps.db]\ncommand = ["true"]\nfile_name = "../x"', "file_name"),
        ('[dumps.db]\ncommand = ["true"]\ntimeout = 0', "timeout"),
        ('[policy]\nbackup_paths = ["etc"]', r"backup_paths\[0\]: must be an absolute path"),
        ('[policy]\nkinds = ["defragment"]', r"kinds\[0\]: 'defragment' .* can be init, backup"),
        ('log_level = "loud"', "log_level: 'loud' .* can be debug"),
        ("poll_hold = -1", "poll_hold: must be at least 0"),
        ("settle = -1", "settle"),
        ("offline_after = 1e9", "offline_after"),
        ("state_dir = 5", "state_dir"),
        ('ca_file = ""', "ca_file"),
        ('file = "/etc/other.toml"', "settings: file: is not a field of this"),
        ("=", "agent.toml"),
    ],
)
def test_mistake_in_the_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load_settings({}, file=write(tmp_path, text))


@pytest.mark.parametrize(
    "variable", ["BACKHAUL_AGENT_RSTIC", "BACKHAUL_AGENT_POLICY", "BACKHAUL_AGENT_DUMPS"]
)
def test_unknown_variable_is_refused(variable: str) -> None:
    with pytest.raises(SettingsError, match=r"(?i)rstic|policy|dumps"):
        load_settings({variable: "x"})


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        load_settings({}, file=tmp_path / "nowhere.toml")
