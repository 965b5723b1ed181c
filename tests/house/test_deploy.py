"""The files of deploy/ say what the code takes."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from backhaul_api.settings import Settings, load_settings
from tests.house.modules import ROOT

DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(DEPLOY.rglob("Dockerfile"))
SECRETS = {
    "BACKHAUL_API_DATABASE_URL": "postgresql://u:p@h/d",
    "BACKHAUL_API_KEY": "a key",
    "BACKHAUL_API_TICK_TOKEN": "a token that nobody guesses, at all",
}


class _Tagged(yaml.SafeLoader):  # type: ignore[misc]  # it comes without types
    """Reads the short forms of CloudFormation, like !Ref, as what they are applied to."""


def _read_tagged(loader: _Tagged, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    assert isinstance(node, yaml.SequenceNode)
    return loader.construct_sequence(node)


_Tagged.add_multi_constructor("!", _read_tagged)


def _load(name: str) -> dict[str, Any]:
    loaded = yaml.load((DEPLOY / name).read_text(), Loader=_Tagged)  # noqa: S506 (a safe one)
    assert isinstance(loaded, dict)
    return loaded


def _load_settings(variables: Mapping[str, Any]) -> Settings:
    """Load what a file sets, with something in the place of what it takes from elsewhere."""
    return load_settings(
        {name: SECRETS.get(name) or str(value) for name, value in variables.items()}
    )


SERVICE = _load("container/service.yaml")["spec"]["template"]["spec"]
TEMPLATE = _load("aws/template.yaml")
CRON_JOB = _load("container/tick.yaml")["spec"]


def test_the_service_is_given_settings_that_fit_its_platform() -> None:
    (container,) = SERVICE["containers"]

    settings = _load_settings({one["name"]: one.get("value") for one in container["env"]})

    assert settings.poll_hold == 0
    assert settings.answer_limit == SERVICE["timeoutSeconds"]
    assert settings.tick_token


def test_the_function_is_given_settings_that_fit_its_gateway() -> None:
    function = TEMPLATE["Resources"]["Function"]["Properties"]

    settings = _load_settings(function["Environment"]["Variables"])

    assert settings.answer_limit == 29
    assert function["Timeout"] >= settings.answer_limit
    assert settings.tick_token is None
    assert function["Events"]["Everything"]["Properties"]["PayloadFormatVersion"] == "2.0"
    assert TEMPLATE["Resources"]["Api"]["Properties"]["StageName"] == "$default"


def test_the_template_names_only_what_it_has() -> None:
    known = {*TEMPLATE["Resources"], *TEMPLATE["Parameters"]}
    text = (DEPLOY / "aws/template.yaml").read_text()

    named = set(re.findall(r"!(?:Ref|GetAtt) (\w+)|\$\{(\w+)\}", text))

    assert {one or other for one, other in named} == known - {"TimerMayInvoke"}


def test_the_rule_ticks_once_a_minute_and_may() -> None:
    resources = TEMPLATE["Resources"]
    rule, permission = resources["Timer"]["Properties"], resources["TimerMayInvoke"]["Properties"]

    assert rule["ScheduleExpression"] == "rate(1 minute)"
    assert [target["Arn"] for target in rule["Targets"]] == ["Function.Arn"]
    assert permission["Principal"] == "events.amazonaws.com"
    assert permission["SourceArn"] == "Timer.Arn"
    assert permission["FunctionName"] == "Function"


def test_the_cron_job_runs_a_command_with_a_token_of_the_service() -> None:
    (container,) = CRON_JOB["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    taken = {
        one["name"]: one["valueFrom"]["secretKeyRef"]
        for one in (*container["env"], *SERVICE["containers"][0]["env"])
        if "valueFrom" in one
    }

    assert container["command"] == ["backhaul", "tick"]
    assert taken["BACKHAUL_TICK_TOKEN"] == taken["BACKHAUL_API_TICK_TOKEN"]
    assert CRON_JOB["schedule"] == "* * * * *"


def _instructions(file: Path) -> Iterator[tuple[str, str]]:
    text = file.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            yield word, rest


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_an_image_installs_an_extra_and_starts_what_is_there(file: Path) -> None:
    instructions = list(_instructions(file))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]

    (extra,) = re.findall(r"'\S*\[(\w+)\]'", str(instructions))
    command = json.loads(dict(instructions)["CMD"])
    module, _, name = command[-1].split()[-1].replace(":", ".").rpartition(".")

    assert extra in extras
    tree = ast.parse((ROOT / "api" / f"{module.replace('.', '/')}.py").read_text())
    assigned = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert name in assigned


def test_an_image_is_built_from_what_a_build_needs() -> None:
    let_in = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = build["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {path.partition("/")[0] for path in (*wheel["packages"], *wheel["force-include"])}
    needed |= {"pyproject.toml", build["project"]["readme"], *build["project"]["license-files"]}

    assert let_in == needed
