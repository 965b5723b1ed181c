"""restic's environment: built from nothing, and nothing in it starts another program."""

from __future__ import annotations

from pathlib import Path

import pytest

from backhaul.wire.commands import Credentials
from backhaul_agent.errors import CredentialsError
from backhaul_agent.restic.environment import build_environment
from tests.unit.agent.hosts import PASSWORD, build_credentials

CACHE = Path("/var/cache/x")


def build(credentials: Credentials, **inherited: str) -> dict[str, str]:
    return build_environment(credentials, inherited=inherited, cache_dir=CACHE)


def test_repository_and_password_reach_restic() -> None:
    environment = build(build_credentials(environment={"AWS_ACCESS_KEY_ID": "key"}))

    assert environment["RESTIC_REPOSITORY"] == "/srv/repo"
    assert environment["RESTIC_PASSWORD"] == PASSWORD
    assert environment["RESTIC_CACHE_DIR"] == str(CACHE)
    assert environment["RESTIC_PROGRESS_FPS"] == "1"
    assert environment["AWS_ACCESS_KEY_ID"] == "key"


def test_nothing_of_restic_or_aws_is_inherited() -> None:
    environment = build(
        build_credentials(),
        RESTIC_REPOSITORY_FILE="/other",
        RESTIC_PASSWORD_COMMAND="other",
        AWS_PROFILE="other",
        BACKHAUL_AGENT_PROXY="other",
        LD_PRELOAD="other",
        HOME="/root",
        HTTPS_PROXY="http://proxy:3128",
    )

    assert "other" not in environment.values()
    assert "/other" not in environment.values()
    assert environment["HOME"] == "/root"
    assert environment["HTTPS_PROXY"] == "http://proxy:3128"


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "PATH",
        "HOME",
        "RESTIC_PASSWORD_COMMAND",
        "RESTIC_PASSWORD_FILE",
        "RESTIC_REPOSITORY",
        "RCLONE_SFTP_SSH",
        "SSH_ASKPASS",
        "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_PROFILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AZURE_FORCE_CLI_CREDENTIAL",
        "RESTIC_CACERT",
        "RESTIC_TLS_CLIENT_CERT",
        "AWS_X=Y",
        "AWS_",
    ],
)
def test_variable_that_could_start_a_program_or_open_a_file_is_refused(name: str) -> None:
    with pytest.raises(CredentialsError, match=name):
        build(build_credentials(environment={name: "x"}))


def test_host_can_allow_further_variables() -> None:
    credentials = build_credentials(environment={"RCLONE_CONFIG": "/etc/rclone.conf"})

    environment = build_environment(
        credentials, inherited={}, cache_dir=CACHE, also_allowed=["RCLONE_CONFIG"]
    )

    assert environment["RCLONE_CONFIG"] == "/etc/rclone.conf"


def test_what_the_host_allows_comes_from_its_own_environment_too() -> None:
    own = {"GOOGLE_APPLICATION_CREDENTIALS": "/etc/gcs.json", "AWS_PROFILE": "other"}

    environment = build_environment(
        build_credentials(),
        inherited=own,
        cache_dir=CACHE,
        also_allowed=["GOOGLE_APPLICATION_CREDENTIALS"],
    )

    assert environment["GOOGLE_APPLICATION_CREDENTIALS"] == "/etc/gcs.json"
    assert "AWS_PROFILE" not in environment


@pytest.mark.parametrize(
    "location",
    [
        "sftp:-oProxyCommand=touch /x:/repo",
        "sftp:user@-oProxyCommand=x:/repo",
        "sftp://-oProxyCommand=x/repo",
        "sftp://[-oProxyCommand=x]/repo",
        "sftp://user@[-oProxyCommand=x]:22/repo",
        "--password-command=x",
    ],
)
def test_location_that_could_pass_for_an_option_is_refused(location: str) -> None:
    with pytest.raises(CredentialsError, match="hyphen"):
        build(build_credentials(location=location))


@pytest.mark.parametrize(
    "location",
    [
        "rclone:--password-command=touch /tmp/x",
        "rclone:-v",
        "rclone::sftp,host=x,ssh='sh -c id':x",
        "rclone:nas,ssh='sh -c id':x",
        "rclone:/srv/x",
        "rclone:",
    ],
)
def test_rclone_gets_a_remote_of_its_configuration_and_nothing_else(location: str) -> None:
    with pytest.raises(CredentialsError, match="rclone's configuration"):
        build(build_credentials(location=location))


@pytest.mark.parametrize(
    "location",
    [
        "sftp:backup@nas:/srv/a-b",
        "sftp://backup@[2001:db8::1]:22//srv",
        "rest:https://h/-x",
        "/srv/-r",
        "rclone:my nas-2:restic/a b",
    ],
)
def test_ordinary_location_is_taken(location: str) -> None:
    assert build(build_credentials(location=location))["RESTIC_REPOSITORY"] == location


def test_nul_is_refused_without_being_shown() -> None:
    with pytest.raises(CredentialsError) as caught:
        build(build_credentials(password="pass\x00word"))

    assert "word" not in str(caught.value).replace("password", "")
