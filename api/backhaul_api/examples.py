"""Examples for the API's documentation, built from the types, so that none can be forgotten.

What a field is called decides its value where the type alone would say nothing. All of it is
fixed: the document is the same each time. A test decodes each example with its own type.
"""

from __future__ import annotations

import base64
from typing import Any

from msgspec import inspect as types

_ID = "01932f5e-7c00-7000-8000-000000000001"
_AT = "2026-11-23T18:00:00Z"
_HEX = "5f1c0a3e9b7d2468ace013579bdf02468ace13579bdf02468ace13579bdf0246"

_BY_FIELD: dict[str, Any] = {
    "action": "repository.create",
    "actor": "ada",
    "agent_token": "bha_…",
    "agent_version": "0.1.0",
    "architecture": "x86_64",
    "capabilities": ["init", "backup", "snapshots", "restore", "forget", "prune", "check"],
    "catch_up_window": 86_400.0,
    "compression": None,
    "cron": "30 1 * * *",
    "detail": "name: is required",
    "enrollment_token": "bhe_…",
    "drift": None,
    "dry_run": False,
    "dump": None,
    "environment": {"AWS_ACCESS_KEY_ID": "…", "AWS_SECRET_ACCESS_KEY": "…"},
    "environment_names": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
    "enabled": True,
    "exclude_files": ["/etc/backup-excludes"],
    "exclude_larger_than": "2G",
    "excludes": ["*.cache"],
    "expires_at": "2026-11-24T06:00:00Z",
    "expires_in": 3600.0,
    "hold": 25.0,
    "host": "web-1",
    "host_name": "web-1",
    "hostname": "web-1",
    "ionice": "idle",
    "jitter": 600.0,
    "keep_daily": 7,
    "keep_within": "1y",
    "labels": {"site": "berlin"},
    "limit_download": None,
    "limit_upload": 2048,
    "location": "s3:https://s3.example.com/backups",
    "log_lines": 1,
    "max_duration": 7200.0,
    "message": None,
    "name": "web-1",
    "next_cursor": None,
    "nice": 10,
    "original": None,
    "os": "Debian GNU/Linux 12 (bookworm)",
    "parent": None,
    "password": "a long passphrase",
    "paths": ["/etc", "/home"],
    "percent_done": 0.5,
    "program_version": "restic 0.18.1",
    "public_key_fingerprint": _HEX,
    "repository": "nas",
    "read_data_subset": "1/7",
    "restic_id": _HEX,
    "restic_version": "0.18.1",
    "schedule_id": None,
    "scheduled_at": None,
    "setup_token": "bhu_…",
    "short_id": _HEX[:8],
    "since": None,
    "snapshot": "latest",
    "snapshot_id": _HEX,
    "source": "etc",
    "start_deadline": 3600.0,
    "status": "ok",
    "stream": "stdout",
    "tags": ["etc"],
    "target": "/srv/restored",
    "target_kind": "repository",
    "tag": "etc",
    "text": "restoring <Snapshot 5f1c0a3e of [/etc /home]> to /srv/restored",
    "timezone": "Europe/London",
    "token": "…",
    "tree": _HEX,
    "username": "ada",
    "version": "0.1.0",
    "when_unreachable": "run",
}

# Where the same word means another thing.
_BY_STRUCT: dict[tuple[str, str], Any] = {
    ("CreateRepository", "name"): "nas",
    ("UpdateRepository", "name"): "nas",
    ("Repository", "name"): "nas",
    ("CreateSource", "name"): "etc",
    ("UpdateSource", "name"): "etc",
    ("Source", "name"): "etc",
    ("CreateApiToken", "name"): "nightly-report",
    ("ApiToken", "name"): "nightly-report",
    ("AuditEntry", "target"): "nas",
    ("Snapshot", "id"): _HEX,
    ("ReportedSnapshot", "id"): _HEX,
    ("AdoptRepository", "snapshots"): [_HEX],
    ("InitResult", "repository_id"): _HEX,
    ("NewApiToken", "token"): "bht_…",
    ("NewEnrollmentToken", "token"): "bhe_…",
    ("NewSession", "token"): "bhs_…",
    ("JobLogPage", "next_cursor"): "WzEsMV0",
    ("BackupRequest", "paths"): [],
    ("CheckRequest", "read_data_parts"): None,
    ("UpcomingFire", "at"): "2026-11-24T01:30:00+00:00",
    ("Schedule", "next_fire_at"): "2026-11-24T01:36:40Z",
    ("Schedule", "error"): None,
    ("FileEntry", "name"): "hosts",
    ("FileEntry", "path"): "/etc/hosts",
    ("FileEntry", "type"): "file",
    ("FileEntry", "size"): 220,
    ("FileEntry", "mode"): 0o644,
    ("FileEntry", "uid"): 0,
    ("FileEntry", "gid"): 0,
    ("FileEntry", "user"): "root",
    ("FileEntry", "group"): "root",
    ("FileEntry", "link_target"): None,
    ("Problem", "status"): 409,
    ("Problem", "type"): "urn:backhaul:problem:conflict",
    ("Problem", "title"): "Conflict",
    ("Receipt", "problem"): None,
}

_RAW = {
    "Batch": {
        "type": "job.started",
        "job_id": _ID,
        "attempt": 1,
        "at": _AT,
    },
    "PollReply": {
        "type": "command.run",
        "job_id": _ID,
        "attempt": 1,
        "kind": "backup",
        "arguments": {"kind": "backup", "paths": ["/etc", "/home"]},
        "repository_id": _ID,
        "credentials": "c2VhbGVkIHRvIHRoZSBob3N0",
    },
}


_PLAIN: dict[type[types.Type], Any] = {
    types.StrType: "text",
    types.BoolType: False,
    types.FloatType: 1.0,
    types.BytesType: base64.b64encode(bytes(range(32))).decode(),
    types.UUIDType: _ID,
    types.DateTimeType: _AT,
}


def build_example(type_: Any) -> Any:
    """Build an example of a type, as what JSON would show."""
    return _example(types.type_info(type_))


def _example(info: types.Type, *, struct: str = "", field: str = "") -> Any:
    match info:
        case types.Metadata():
            return _example(info.type, struct=struct, field=field)
        case types.StructType():
            return _struct(info)
        case types.UnionType():
            return _union(info, struct=struct, field=field)
        case types.RawType():
            return _RAW.get(struct, {})
    if (struct, field) in _BY_STRUCT:
        return _BY_STRUCT[struct, field]
    if field in _BY_FIELD and _BY_FIELD[field] is not None:
        return _BY_FIELD[field]
    return _plain(info, struct=struct)


def _struct(info: types.StructType) -> dict[str, Any]:
    name = info.cls.__name__
    example: dict[str, Any] = {}
    if info.tag_field is not None:
        example[info.tag_field] = info.tag
    for field in info.fields:
        example[field.encode_name] = _field(field, struct=name)
    return example


def _field(field: types.Field, *, struct: str) -> Any:
    if (struct, field.name) in _BY_STRUCT:
        return _BY_STRUCT[struct, field.name]
    if field.name in _BY_FIELD and _BY_FIELD[field.name] is None and _takes_none(field.type):
        return None
    return _example(field.type, struct=struct, field=field.name)


def _union(info: types.UnionType, *, struct: str, field: str) -> Any:
    members = [member for member in info.types if not isinstance(member, types.NoneType)]
    # Of several kinds of jobs, the backup says most.
    best = next((member for member in members if _tag(member) == "backup"), members[0])
    return _example(best, struct=struct, field=field)


def _plain(info: types.Type, *, struct: str) -> Any:
    match info:
        case types.IntType():
            return 1 if info.ge is None else max(1, info.ge)
        case types.EnumType():
            return _enumeration(info)
        case types.LiteralType():
            return info.values[0]
        case types.VarTupleType() | types.ListType():
            return [_example(info.item_type, struct=struct)]
    return _PLAIN.get(type(info), {})


def _enumeration(info: types.EnumType) -> Any:
    values = [member.value for member in info.cls]
    return next((value for value in ("backup", "running", "user") if value in values), values[0])


def _tag(info: types.Type) -> object:
    return info.tag if isinstance(info, types.StructType) else None


def _takes_none(info: types.Type) -> bool:
    return isinstance(info, types.UnionType) and info.includes_none
