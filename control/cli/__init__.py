"""The commands. Importing this costs nothing: what a verb needs is imported when it runs."""

from __future__ import annotations

import sys


def main() -> None:
    """The `sluicegate` command; ends the process with one of `schemas.exits`."""
    try:
        from sluicegate.control.cli.root import run
    except KeyboardInterrupt:
        sys.exit(130)  # Ctrl-C before there was anything to interrupt

    run()
