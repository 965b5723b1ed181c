"""Repositories: what is stored of them, what is shown, and what opens them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
import sqlalchemy as sa

from backhaul.wire.locations import mask_location
from backhaul_api.db.tables import hosts, jobs, repositories, repository_secrets, snapshots
from backhaul_api.errors import NotFoundError
from backhaul_api.ids import new_id
from backhaul_api.keys import KeyRing, SecretDoesNotOpenError
from backhaul_api.repositories.secrets import load_credentials
from backhaul_api.services import Services

LOCATION = "rest:https://ada:hunter2@backup.example.com/nas"
MASKED = "rest:https://ada:***@backup.example.com/nas"
PASSWORD = "correct horse"
ENVIRONMENT = {"AWS_SECRET_ACCESS_KEY": "swordfish", "AWS_ACCESS_KEY_ID": "AKIA"}
NAS = {"name": "nas", "location": LOCATION, "password": PASSWORD, "environment": ENVIRONMENT}
SECRETS = ("hunter2", PASSWORD, "swordfish", "AKIA")


async def _create(operator: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    answer = await operator.post("/v1/repositories", json=NAS | changes)
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def test_answers_and_audit_log_show_no_secret(operator: httpx.AsyncClient) -> None:
    created = await operator.post("/v1/repositories", json=NAS)
    answers = [
        created,
        await operator.get("/v1/repositories"),
        await operator.get("/v1/repositories/nas"),
        await operator.patch("/v1/repositories/nas", json={"location": LOCATION}),
        await operator.post("/v1/repositories", json=NAS),
        await operator.get("/v1/audit"),
    ]

    assert created.json()["location"] == MASKED
    assert created.json()["environment_names"] == sorted(ENVIRONMENT)
    assert not [s for answer in answers for s in SECRETS if s in answer.text]


async def test_database_holds_no_secret_in_the_clear(
    operator: httpx.AsyncClient, services: Services
) -> None:
    await _create(operator)

    async with services.database.reading() as connection:
        rows = [
            repr(row).encode()
            for table in (repositories, repository_secrets)
            for row in (await connection.execute(sa.select(table))).all()
        ]

    assert not [secret for secret in SECRETS if secret.encode() in b"\n".join(rows)]


async def test_credentials_open_as_they_were_given(
    operator: httpx.AsyncClient, services: Services
) -> None:
    created = await _create(operator)

    async with services.database.reading() as connection:
        credentials = await load_credentials(connection, services.keys, UUID(created["id"]))

    assert msgspec.to_builtins(credentials) == {
        "repository_id": created["id"],
        "location": LOCATION,
        "password": PASSWORD,
        "environment": ENVIRONMENT,
        "new_password": None,
        "old_password": None,
    }
    assert not [secret for secret in SECRETS if secret in repr(credentials)]


async def test_ciphertext_moved_to_another_row_does_not_open(
    operator: httpx.AsyncClient, services: Services
) -> None:
    victim = UUID((await _create(operator))["id"])
    thief = UUID((await _create(operator, name="thief"))["id"])
    async with services.database.writing() as connection:
        stolen = await connection.scalar(
            sa.select(repository_secrets.c.ciphertext).where(
                repository_secrets.c.repository_id == victim,
                repository_secrets.c.name == "password",
            )
        )
        await connection.execute(
            sa.update(repository_secrets)
            .where(
                repository_secrets.c.repository_id == thief,
                repository_secrets.c.name == "password",
            )
            .values(ciphertext=stolen)
        )

    async with services.database.reading() as connection:
        with pytest.raises(SecretDoesNotOpenError):
            await load_credentials(connection, services.keys, thief)
        await load_credentials(connection, services.keys, victim)


async def test_another_key_opens_nothing_but_lists_still_work(
    operator: httpx.AsyncClient, services: Services
) -> None:
    created = await _create(operator)

    async with services.database.reading() as connection:
        with pytest.raises(SecretDoesNotOpenError):
            await load_credentials(connection, KeyRing([bytes(32)]), UUID(created["id"]))


async def test_update_changes_what_it_names_and_keeps_the_rest(
    operator: httpx.AsyncClient, services: Services
) -> None:
    created = await _create(operator)

    changed = await operator.patch(
        "/v1/repositories/nas",
        json={"name": "nas2", "location": "/srv/restic", "environment": {}},
    )

    assert changed.json()["name"] == "nas2"
    assert changed.json()["location"] == "/srv/restic"
    assert changed.json()["environment_names"] == []
    async with services.database.reading() as connection:
        credentials = await load_credentials(connection, services.keys, UUID(created["id"]))
    assert (credentials.location, credentials.password) == ("/srv/restic", PASSWORD)
    assert credentials.environment == {}


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/srv/restic", "/srv/restic"),
        ("local:/srv/restic", "local:/srv/restic"),
        ("sftp:backup@nas:/restic", "sftp:backup@nas:/restic"),
        ("sftp:backup:hunter2@nas:/restic", "sftp:backup:***@nas:/restic"),
        ("sftp://backup:hunter2@nas:22//restic", "sftp://backup:***@nas:22//restic"),
        ("s3:https://key:hunter2@s3.example.com/b", "s3:https://key:***@s3.example.com/b"),
        ("s3:https://s3.example.com:9000/b", "s3:https://s3.example.com:9000/b"),
        ("rest:https://user:123/hunter2@host/", "rest:https://user:***@host/"),
        ("rest:https://user:123?hunter2@host/", "rest:https://user:***@host/"),
        ("sftp:backup:hunt@er2@nas:/restic", "sftp:backup:***@nas:/restic"),
        ("rest:https://h/x?hunter2#hunter2", "rest:https://h/x?***#***"),
        ("azure:box:/x?sv=2026;sig=hunter2", "azure:box:/x?sv=***;sig=***"),
        ("/srv/what?x=1", "/srv/what?x=1"),
        ("rest:https://ada:hun@ter2@h/x", "rest:https://ada:***@h/x"),
        ("rest:https://ada:hun/ter2@h/x", "rest:https://ada:***@h/x"),
        ("rest:https://:hunter2@h/x", "rest:https://:***@h/x"),
        ("rest:https://h/x?token=hunter2&b=hunter2", "rest:https://h/x?token=***&b=***"),
        ("rclone:nas:restic", "rclone:nas:restic"),
        ("b2:bucket:path", "b2:bucket:path"),
    ],
)
async def test_location_is_shown_without_its_password(
    operator: httpx.AsyncClient, location: str, shown: str
) -> None:
    assert (await _create(operator, location=location))["location"] == shown


@pytest.mark.parametrize(
    "location",
    ["restic", "./restic", "~/restic", "local:restic", "ftp:host/x", "rest:", " /srv/restic"],
)
async def test_location_that_depends_on_the_agents_folder_is_refused(
    operator: httpx.AsyncClient, location: str
) -> None:
    answer = await operator.post("/v1/repositories", json=NAS | {"location": location})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "location"


def test_secret_in_a_recorded_location_of_rclone_is_not_shown() -> None:
    location = "rclone::s3,access_key_id=hunter2,secret_access_key='hun,ter2',region=eu:bucket"

    shown = mask_location(location)

    assert shown == "rclone::s3,access_key_id=***,secret_access_key=***,region=***:bucket"


@pytest.mark.parametrize(
    "location",
    [
        "rclone:--password-command=touch /tmp/x",
        "rclone::sftp,host=x,ssh='sh -c id':x",
        "rclone:nas,ssh='sh -c id':x",
        "sftp:-oProxyCommand=x:/repo",
        "sftp://[-oProxyCommand=x]/repo",
    ],
)
async def test_location_that_could_run_a_program_is_refused(
    operator: httpx.AsyncClient, location: str
) -> None:
    await _create(operator)
    answers = [
        await operator.post("/v1/repositories", json=NAS | {"location": location}),
        await operator.patch("/v1/repositories/nas", json={"location": location}),
    ]

    for answer in answers:
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "location"


@pytest.mark.parametrize(
    "name",
    [
        "RESTIC_REPOSITORY",
        "RESTIC_REPOSITORY_FILE",
        "RESTIC_PASSWORD",
        "RESTIC_PASSWORD_FILE",
        "RESTIC_PASSWORD_COMMAND",
        "RESTIC_FROM_PASSWORD",
        "RCLONE_PASSWORD_COMMAND",
        "LD_PRELOAD",
        "PATH",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES",
        "AWS_SHARED_CREDENTIALS_FILE",
        "RCLONE_SFTP_SSH",
        "RESTIC_TLS_CLIENT_CERT",
        "ANYTHING",
    ],
)
async def test_variable_that_no_repository_needs_is_refused_with_the_reason(
    operator: httpx.AsyncClient, name: str
) -> None:
    answers = [
        await operator.post("/v1/repositories", json=NAS | {"environment": {name: "swordfish"}}),
    ]
    await _create(operator)
    answers.append(
        await operator.patch("/v1/repositories/nas", json={"environment": {name: "swordfish"}})
    )

    for answer in answers:
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == f"environment.{name}"
        assert "swordfish" not in answer.text


@pytest.mark.parametrize("name", ["RESTIC_COMPRESSION", "RESTIC_REST_USERNAME", "B2_ACCOUNT_ID"])
async def test_other_variables_are_taken(operator: httpx.AsyncClient, name: str) -> None:
    assert (await _create(operator, environment={name: "x"}))["environment_names"] == [name]


async def test_taken_name_is_refused(operator: httpx.AsyncClient) -> None:
    await _create(operator)
    await _create(operator, name="other")

    created = await operator.post("/v1/repositories", json=NAS)
    renamed = await operator.patch("/v1/repositories/other", json={"name": "nas"})

    assert (created.status_code, renamed.status_code) == (409, 409)


async def test_name_that_looks_like_an_id_is_refused(operator: httpx.AsyncClient) -> None:
    name = "01932f5e-7c00-7000-8000-000000000001"
    answer = await operator.post("/v1/repositories", json=NAS | {"name": name})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "name"


async def test_repositories_are_listed_by_name_in_pages(operator: httpx.AsyncClient) -> None:
    for name in ("c", "a", "b"):
        await _create(operator, name=name)

    first = (await operator.get("/v1/repositories", params={"limit": 2})).json()
    rest = (await operator.get("/v1/repositories", params={"cursor": first["next_cursor"]})).json()

    assert [item["name"] for page in (first, rest) for item in page["items"]] == ["a", "b", "c"]


async def _insert_job(services: Services, repository_id: UUID, *, state: str) -> UUID:
    now = services.clock.now()
    host_id, job_id = new_id(), new_id()
    async with services.database.writing() as connection:
        await connection.execute(
            sa.insert(hosts).values(
                id=host_id,
                name="web-1",
                labels={},
                facts={},
                public_key=bytes(32),
                token_hash=bytes(32),
                enrolled_at=now,
            )
        )
        await connection.execute(
            sa.insert(jobs).values(
                id=job_id,
                host_id=host_id,
                repository_id=repository_id,
                kind="init",
                state=state,
                arguments={"kind": "init"},
                actor_kind="user",
                created_at=now,
            )
        )
    return job_id


async def test_repository_in_use_is_not_deleted(
    operator: httpx.AsyncClient, services: Services
) -> None:
    created = await _create(operator)
    await _insert_job(services, UUID(created["id"]), state="running")

    answer = await operator.delete("/v1/repositories/nas")

    assert answer.status_code == 409
    assert "Wait, then delete it" in answer.json()["detail"]


async def test_deleted_repository_loses_its_secrets_and_its_jobs_keep_its_name(
    operator: httpx.AsyncClient, services: Services
) -> None:
    created = await _create(operator)
    repository_id = UUID(created["id"])
    job_id = await _insert_job(services, repository_id, state="succeeded")

    assert (await operator.delete("/v1/repositories/nas")).status_code == 204

    assert (await operator.get("/v1/repositories/nas")).status_code == 404
    assert (await operator.get(f"/v1/repositories/{repository_id}")).status_code == 404
    assert (await operator.get("/v1/repositories")).json()["items"] == []
    assert (await operator.get(f"/v1/jobs/{job_id}")).json()["repository"] == "nas"
    async with services.database.reading() as connection:
        for table in (repository_secrets, snapshots):
            assert await connection.scalar(sa.select(sa.func.count()).select_from(table)) == 0
        with pytest.raises(NotFoundError):
            await load_credentials(connection, services.keys, repository_id)


async def test_name_of_a_deleted_repository_is_free_again(operator: httpx.AsyncClient) -> None:
    first = await _create(operator)
    await operator.delete("/v1/repositories/nas")

    second = await _create(operator)

    assert first["id"] != second["id"]
    assert (await operator.get("/v1/repositories/nas")).json()["id"] == second["id"]
