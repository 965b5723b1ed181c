"""The root command: its table of commands, each loaded when it is used.

The API's and the agent's commands are found through the entry points `backhaul.commands`, so that
this package imports neither, and one whose extra is not installed only says so when it is called.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from backhaul import __version__
from backhaul.cli import connection, failures

COMMANDS: Mapping[str, tuple[str, str]] = {
    "login": ("backhaul.cli.login:login", "Sign in, and remember the session."),
    "logout": ("backhaul.cli.login:logout", "End the session and forget it."),
    "whoami": ("backhaul.cli.login:whoami", "Show who is signed in, and where."),
    "bootstrap": ("backhaul.cli.login:bootstrap", "Create the first operator of a new server."),
    "hosts": ("backhaul.cli.hosts:app", "The machines that agents run on."),
    "enrollment-tokens": ("backhaul.cli.tokens:enrollment_app", "Tokens with which hosts join."),
    "repositories": ("backhaul.cli.repositories:app", "The restic repositories."),
    "sources": ("backhaul.cli.sources:app", "What to back up: named sets of paths."),
    "schedules": ("backhaul.cli.schedules:app", "When hosts do what by themselves."),
    "jobs": ("backhaul.cli.jobs:app", "Back up, restore, and look at what ran."),
    "snapshots": ("backhaul.cli.snapshots:app", "What the repositories hold."),
    "tokens": ("backhaul.cli.tokens:api_app", "API tokens, for scripts."),
    "users": ("backhaul.cli.users:app", "The operators: who may sign in."),
    "events": ("backhaul.cli.events:events", "What happened, and what happens."),
    "audit": ("backhaul.cli.audit:app", "Who changed what."),
    "tick": ("backhaul.cli.tick:tick", "Have the server do what time has made necessary."),
    "version": ("backhaul.cli.version:version", "Show the version."),
}
"""Where each command is and its line in the help, which thereby needs no import."""

PLUGINS: Mapping[str, tuple[str, str]] = {
    "serve": ("api", "Run the server."),
    "db": ("api", "Upgrade the server's database."),
    "admin": ("api", "Manage operators on the server's own machine."),
    "agent": ("agent", "Enrol this machine and run its agent."),
    "simulate": ("agent", "Drive a server with simulated agents, to size it."),
}
"""The extra that each of the project's own entry points needs, and its line in the help."""

PLUGIN_GROUP = "backhaul.commands"
OWN_PACKAGES = {"backhaul", "backhaul_agent", "backhaul_api"}


class RootGroup(TyperGroup):
    """A group that loads a command when it is used, and turns each error into one line."""

    _used = ""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS, *(name for name in _list_plugins() if name not in COMMANDS)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        self._used = cmd_name
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            return _as_command(cmd_name, getattr(importlib.import_module(module), attribute))
        plugin = _list_plugins().get(cmd_name)
        if plugin is None:
            return None
        try:
            return _as_command(cmd_name, plugin.load())
        except ModuleNotFoundError:
            if ctx.resilient_parsing:  # a shell asks for completions; there is none
                return None
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        # The suggestions for a mistyped name are drawn from `commands`: only its keys count.
        names: Any = dict.fromkeys(self.list_commands(ctx))
        self.commands = names
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if self._used not in PLUGINS or missing in OWN_PACKAGES:
                raise
            extra = PLUGINS[self._used][0]
            raise failures.MissingExtraError(
                f"'backhaul {self._used}' needs more packages: pip install 'backhaul[{extra}]'"
            ) from error

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows = [(name, _help_of(name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def main(self, *args: Any, **options: Any) -> NoReturn:
        options["standalone_mode"] = False
        try:
            code = super().main(*args, **options)
        except Exception as error:  # noqa: BLE001 -- the edge of the program: a person reads this
            code = failures.report(error)
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    name="backhaul",
    cls=RootGroup,
    help="Back up a fleet of machines with restic.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def choose(
    context: typer.Context,
    profile: Annotated[
        str | None,
        typer.Option(help="A profile of the configuration file. [env: BACKHAUL_PROFILE]"),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    connection.select_profile(profile)
    if version:
        typer.echo(f"backhaul {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def build_root(root: typer.Typer) -> Any:
    """Turn the app into the command that runs it."""
    return get_command(root)


def _as_command(name: str, found: Any) -> Any:
    """Turn what a name stands for into a command: an app, or a function with typer's marks."""
    if not isinstance(found, typer.Typer):
        single = typer.Typer(rich_markup_mode=None, add_completion=False)
        single.command(name, help=inspect.getdoc(found))(found)
        found = single
    found._add_completion = False
    found.rich_markup_mode = None  # one look for all: plain, also for what others add
    command = get_command(found)
    command.name = name
    return command


def _list_plugins() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {found.name: found for found in sorted(entry_points(group=PLUGIN_GROUP))}


def _help_of(name: str) -> str:
    if name in COMMANDS:
        return COMMANDS[name][1]
    return PLUGINS[name][1] if name in PLUGINS else "Added by another package."
