"""The commands. Importing this costs nothing: what a verb needs is imported when it runs."""

from __future__ import annotations


def main() -> None:
    """The `sluicegate` command; ends the process with one of `schemas.exits`."""
    from sluicegate.control.cli.root import run

    run()
