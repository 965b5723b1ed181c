"""The API's settings and where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from backhaul_api.db.urls import DatabaseUrlError, check_database_url, sqlite_file
from backhaul_api.settings import Settings, SettingsError, load_settings


def test_options_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "api.toml"
    file.write_text('host = "file"\nport = 1\nlog_level = "debug"\n')
    environment = {"BACKHAUL_API_HOST": "environment", "BACKHAUL_API_PORT": "2", "OTHER": "x"}

    settings = load_settings(environment, file=file, host="option", port=None)

    assert (settings.host, settings.port, settings.log_level) == ("option", 2, "debug")


def test_paths_are_read_from_text(tmp_path: Path) -> None:
    settings = load_settings({"BACKHAUL_API_DATA_DIR": str(tmp_path)})

    assert settings.data_dir == tmp_path
    assert settings.effective_key_file == tmp_path / "secret.key"
    assert settings.effective_database_url.endswith(f"{tmp_path}/backhaul.sqlite3")


def test_database_url_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://u:p@h/d\n")

    settings = load_settings({"BACKHAUL_API_DATABASE_URL_FILE": str(file)})

    assert settings.database_url == "postgresql://u:p@h/d"


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"BACKHAUL_API_PORT": "http"}, "port: must be a whole number"),
        ({"BACKHAUL_API_PORT": "70000"}, "port"),
        ({"BACKHAUL_API_LOG_LEVEL": "loud"}, "log_level: .* can be debug"),
        ({"BACKHAUL_API_SESSION_LIFETIME": "0"}, "session_lifetime"),
        ({"BACKHAUL_API_JOB_LOG_LIFETIME": "3600"}, "job_log_lifetime: must be at least 86400"),
        ({"BACKHAUL_API_JOB_LOG_LIFETIME": "90d"}, "job_log_lifetime: must be a number, not a"),
        ({"BACKHAUL_API_COLOUR": "red"}, "colour"),
        ({"BACKHAUL_API_DATA_DIR": ""}, "data_dir"),
        ({"BACKHAUL_API_HOST": ""}, "host: must not be empty"),
        ({"BACKHAUL_API_KEY": ""}, "key: must not be empty"),
        ({"BACKHAUL_API_DATABASE_URL": ""}, "database_url: must not be empty"),
        (
            {"BACKHAUL_API_TICK_TOKEN": "can be guessed"},
            "tick_token: must have at least 32 characters",
        ),
        ({"BACKHAUL_API_ANSWER_LIMIT": "1"}, "answer_limit"),
        ({"BACKHAUL_API_DATABASE_URL_FILE": "/nowhere/at/all"}, "DATABASE_URL_FILE"),
    ],
    ids=[
        "no-number",
        "port",
        "level",
        "lifetime",
        "log-lifetime",
        "log-lifetime-in-days",
        "unknown",
        "empty-path",
        "host",
        "key",
        "url",
        "tick-token",
        "answer-limit",
        "file",
    ],
)
def test_unacceptable_setting_is_refused_by_name(environment: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load_settings(environment)


@pytest.mark.parametrize("content", ["port = ", "\x00"], ids=["syntax", "binary"])
def test_damaged_settings_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    file = tmp_path / "api.toml"
    file.write_text(content)

    with pytest.raises(SettingsError, match=r"api\.toml"):
        load_settings({}, file=file)


def test_settings_show_no_secret() -> None:
    settings = Settings(database_url="postgresql://u:hunter2@h/d", key="c2VjcmV0")

    assert "hunter2" not in repr(settings)
    assert "c2VjcmV0" not in repr(settings)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("sqlite:////srv/b.sqlite3", "sqlite+aiosqlite:////srv/b.sqlite3"),
        ("postgres://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgresql+asyncpg://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
    ],
)
def test_database_url_is_given_its_driver(given: str, used: str) -> None:
    assert check_database_url(given) == used


@pytest.mark.parametrize(
    "url",
    ["mysql://u:hunter2@h/d", "u:hunter2@h", "sqlite://", "postgresql+psycopg2://u:hunter2@h/d"],
)
def test_database_that_is_not_known_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(DatabaseUrlError) as refused:
        check_database_url(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("?sslmode=require", "u:p@h/d?ssl=require"),
        ("?ssl=verify-full", "u:p@h/d?ssl=verify-full"),
        ("?sslmode=prefer&passfile=f", "u:p@h/d?passfile=f&ssl=prefer"),
        ("?host=a:1&host=b:2", "u:p@h/d?host=a%3A1&host=b%3A2"),
    ],
    ids=["sslmode", "ssl", "others", "hosts"],
)
def test_parameters_of_postgresql_are_said_in_the_words_of_its_driver(
    given: str, used: str
) -> None:
    url = check_database_url(f"postgresql://u:p@h/d{given}")

    assert url == f"postgresql+asyncpg://{used}"
    assert check_database_url(url) == url


def test_password_in_a_parameter_is_put_where_it_is_hidden() -> None:
    url = check_database_url("postgresql:///d?user=u&password=hunter2")

    assert "hunter2" not in sa.make_url(url).render_as_string(hide_password=True)
    assert sa.make_url(url).password == "hunter2"


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://u:hunter2@h/d?nosuch=hunter2", "'nosuch'"),
        ("postgresql://u:hunter2@h/d?channel_binding=require", "'channel_binding'"),
        ("postgresql://u:hunter2@h/d?sslrootcert=/a.crt", "PGSSLROOTCERT"),
        ("postgresql://u:hunter2@h/d?sslmode=hunter2", "sslmode .* verify-full"),
        ("postgresql://u:hunter2@h/d?sslmode=require&sslmode=disable", "more than once"),
        ("postgresql://u:hunter2@h/d?sslmode=require&ssl=disable", "leave ssl out"),
        ("postgresql:///d?password=hunter2", "no user"),
        ("postgresql://u:hunter2@h:abc/d", "not a URL"),
        ("postgresql://u:hunter2@h/d?port=abc", "a port is a number"),
        ("sqlite:////srv/b.sqlite3?timeout=hunter2", "'timeout'"),
    ],
)
def test_parameter_that_no_driver_takes_is_refused_by_name(url: str, named: str) -> None:
    with pytest.raises(DatabaseUrlError, match=named) as refused:
        check_database_url(url)
    assert "hunter2" not in str(refused.value)


def test_only_sqlite_has_a_file() -> None:
    assert sqlite_file("sqlite+aiosqlite:////srv/b.sqlite3") == Path("/srv/b.sqlite3")
    assert sqlite_file("postgresql+asyncpg://h/d") is None
