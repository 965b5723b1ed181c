"""Where the server and the token are found, and how they are kept."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import backhaul
from backhaul import settings
from backhaul.errors import ConfigurationError
from backhaul.settings import Profile, find_profile, load_config, require_token, save_profile
from backhaul.wire.tokens import TokenKind, build_token

API_TOKEN = build_token(TokenKind.API)
SESSION_TOKEN = build_token(TokenKind.SESSION)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path)}


@pytest.fixture
def path(environment: dict[str, str]) -> Path:
    return settings.config_path(environment)


@pytest.fixture
def saved(path: Path) -> Profile:
    profile = Profile(url="https://one.test", token=SESSION_TOKEN, ca_file="/etc/ca.pem")
    save_profile(path, "default", profile)
    return profile


def test_file_is_where_xdg_says(environment: dict[str, str], tmp_path: Path) -> None:
    assert settings.config_path(environment) == tmp_path / "backhaul" / "config.toml"
    assert settings.config_path({}) == Path.home() / ".config" / "backhaul" / "config.toml"


def test_saved_profile_is_found(environment: dict[str, str], saved: Profile) -> None:
    assert find_profile(environment) == saved


def test_environment_goes_before_the_file(environment: dict[str, str], saved: Profile) -> None:
    environment |= {"BACKHAUL_URL": "https://two.test", "BACKHAUL_TOKEN": API_TOKEN}

    assert find_profile(environment) == Profile(url="https://two.test", token=API_TOKEN)


def test_arguments_go_before_the_environment(environment: dict[str, str]) -> None:
    environment |= {"BACKHAUL_URL": "https://two.test", "BACKHAUL_TOKEN": API_TOKEN}

    found = find_profile(environment, url="https://three.test", token=SESSION_TOKEN)

    assert found == Profile(url="https://three.test", token=SESSION_TOKEN)


def test_profile_that_is_asked_for_goes_before_the_environment(
    environment: dict[str, str], saved: Profile
) -> None:
    environment |= {"BACKHAUL_URL": "https://two.test", "BACKHAUL_TOKEN": API_TOKEN}

    assert find_profile(environment, profile="default") == saved


def test_token_of_a_profile_goes_to_no_other_server(
    environment: dict[str, str], saved: Profile
) -> None:
    assert find_profile(environment, url="https://other.test").token is None
    assert find_profile(environment, url=f"{saved.url}/").token == saved.token


def test_token_can_come_from_a_file(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{API_TOKEN}\n")
    environment |= {"BACKHAUL_URL": "https://two.test", "BACKHAUL_TOKEN_FILE": f"{tmp_path}/token"}

    assert find_profile(environment).token == API_TOKEN


def test_missing_token_file_is_named(environment: dict[str, str]) -> None:
    environment |= {"BACKHAUL_URL": "https://two.test", "BACKHAUL_TOKEN_FILE": "/nowhere/token"}

    with pytest.raises(ConfigurationError, match="BACKHAUL_TOKEN_FILE"):
        find_profile(environment)


def test_profiles_live_beside_each_other(environment: dict[str, str], path: Path) -> None:
    save_profile(path, "prod", Profile(url="https://prod.test"))
    save_profile(path, "lab", Profile(url="https://lab.test"))

    assert find_profile(environment).url == "https://prod.test"
    assert find_profile(environment, profile="lab").url == "https://lab.test"
    environment["BACKHAUL_PROFILE"] = "lab"
    assert find_profile(environment).url == "https://lab.test"


def test_unknown_profile_is_told_with_those_that_exist(
    environment: dict[str, str], saved: Profile
) -> None:
    with pytest.raises(ConfigurationError, match=r"'prod' \(there is: default\)"):
        find_profile(environment, profile="prod")


def test_nothing_configured_says_what_to_do(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"backhaul login --url"):
        find_profile(environment)


def test_file_is_private_to_its_user(path: Path, saved: Profile) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_file_that_was_open_to_others_is_private_again(path: Path, saved: Profile) -> None:
    path.chmod(0o644)

    save_profile(path, "default", saved)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_failed_write_leaves_the_old_file_and_no_other(
    path: Path, saved: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ConfigurationError, match="No space left"):
        save_profile(path, "default", Profile(url="https://two.test"))

    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_link_to_the_file_stays_a_link(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "dotfile.toml")

    save_profile(path, "default", Profile(url="https://one.test"))

    assert path.is_symlink()
    assert load_config(path).profiles["default"].url == "https://one.test"


def test_forgotten_token_leaves_the_url(path: Path, saved: Profile) -> None:
    settings.forget_token(path, "default")

    assert load_config(path).profiles["default"] == Profile(url=saved.url, ca_file=saved.ca_file)
    assert SESSION_TOKEN not in path.read_text()


@pytest.mark.parametrize("text", ['a"b', "back\\slash", "tab\tbell\x07del\x7f", "ünïcode 🙂"])
def test_any_text_survives_the_file(path: Path, text: str) -> None:
    save_profile(path, "default", Profile(url="https://one.test", ca_file=text))

    assert load_config(path).profiles["default"].ca_file == text


@pytest.mark.parametrize("content", ["profiles = 3", "urll = 'x'", "= broken", "[profiles.x]\n"])
def test_unusable_file_is_named(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)

    with pytest.raises(ConfigurationError, match=r"config\.toml is not usable"):
        load_config(path)


def test_profile_name_must_be_plain(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="profile name"):
        save_profile(path, "a b", Profile(url="https://one.test"))


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "Not signed in"),
        (f"{API_TOKEN[:-1]}-", "cut or mistyped"),
        (build_token(TokenKind.ENROLLMENT), "of the kind enrollment"),
        (build_token(TokenKind.AGENT), "of the kind agent"),
    ],
    ids=["none", "cut", "enrollment", "agent"],
)
def test_token_that_cannot_be_an_operators_is_refused(token: str | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        require_token(Profile(url="https://one.test", token=token))

    assert token is None or token not in str(caught.value)


def test_whoever_asked_for_a_profile_is_told_to_sign_in_with_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        require_token(Profile(url="https://one.test"), name="bob")

    assert "`backhaul login --url https://one.test --profile bob`" in str(caught.value)


def test_token_is_in_no_repr(saved: Profile) -> None:
    assert SESSION_TOKEN not in repr(saved)
    assert SESSION_TOKEN not in repr(settings.ConfigFile(profiles={"default": saved}))


async def test_connect_finds_its_settings(
    environment: dict[str, str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_profile(path, "default", Profile(url="https://one.test", token=SESSION_TOKEN))
    monkeypatch.delenv("BACKHAUL_URL", raising=False)
    monkeypatch.delenv("BACKHAUL_TOKEN", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", environment["XDG_CONFIG_HOME"])

    with backhaul.connect() as fleet:
        assert fleet.client.url == "https://one.test"
    async with backhaul.aconnect(profile="default") as async_fleet:
        assert async_fleet.client.url == "https://one.test"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("profiles = 1", "profiles: must be a table, not a whole number."),
        ("default_profile = true", "default_profile: must be text, not true or false."),
        ("colour = 1", "colour: is not a setting."),
        ("[profiles]\nprod = 1", "profiles.prod: must be a table, not a whole number."),
        ("[profiles.prod]\nurl = 5", "profiles.prod.url: must be text, not a whole number."),
        ("[profiles.prod]\ntoken = 'x'", "profiles.prod.url: is required."),
        ("[profiles.prod]\nurl = 'x'\ntoken = 5", "profiles.prod.token: must be text, not a whole"),
        ("[profiles.prod]\nurl = 'x'\ncolour = 1", "profiles.prod.colour: is not a setting."),
    ],
)
def test_wrong_setting_is_named_with_its_profile_and_what_it_takes(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(content)

    with pytest.raises(ConfigurationError) as refused:
        load_config(path)

    assert f"config.toml is not usable: {said}" in str(refused.value)
