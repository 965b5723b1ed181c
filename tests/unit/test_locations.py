"""What of a repository's location is shown."""

from __future__ import annotations

import pytest

from backhaul.wire.locations import mask_location


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("rest:https://user:123/hunter2@host/", "rest:https://user:***@host/"),
        ("rest:https://user:123@host/", "rest:https://user:***@host/"),
        ("rest:https://user:hun#ter2@host/", "rest:https://user:***@host/"),
        ("sftp:user:hun/ter2@host:/x", "sftp:user:***@host:/x"),
        ("s3:key:hunter2@host/bucket", "s3:key:***@host/bucket"),
        ('rclone:remote,user=hunter2,pass="hun,ter2":x', "rclone:remote,user=***,pass=***:x"),
        ("rclone::http,url='https://u:hunter2@h':x", "rclone::http,url=***:x"),
        ("rclone::http,url=https://u:hunter2@h:x", "rclone::http,url=***://***"),
        ("rclone:https://u:hunter2@h/x", "rclone:https://***"),
        ("azure:box:/x?sig=hunter2", "azure:box:/x?sig=***"),
        (
            "rest:https://h/x?hunter2&a=hunter2;b=hunter2#hunter2",
            "rest:https://h/x?***&a=***;b=***#***",
        ),
    ],
)
def test_secret_is_not_shown(location: str, shown: str) -> None:
    assert mask_location(location) == shown
    assert "ter2" not in mask_location(location)


@pytest.mark.parametrize(
    "location",
    [
        "/srv/restic",
        "/srv/a?b=c@d:e#f",
        "local:/srv/a?b=c",
        r"C:\restic",
        "sftp:backup@nas:/restic",
        "sftp:nas:/a@b",
        "sftp://backup@nas:22//restic",
        "s3:https://s3.example.com:9000/bucket",
        "s3:s3.example.com/bucket",
        "rest:http://[::1]:8000/x",
        "b2:bucket:path@x",
        "rclone:nas:restic",
        "rclone:nas:a@b",
    ],
)
def test_location_without_a_secret_is_shown_as_it_is(location: str) -> None:
    assert mask_location(location) == location
