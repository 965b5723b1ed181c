"""The command line: `backhaul`."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Run the command that the arguments name, and exit: 0 fine, 1 failed, 2 bad input,
    3 incomplete (a snapshot exists, some files were not read), 130 interrupted."""
    from backhaul.cli.streams import prepare_streams

    prepare_streams()
    from backhaul.cli.app import app, build_root

    build_root(app).main(prog_name="backhaul")
    raise AssertionError("the root command exits by itself")
