"""The verb `serve`: the control plane in the foreground. It needs the `control` extra, imported when it runs."""

from __future__ import annotations

import logging
import os

import click

from sluicegate.control.cli import options
from sluicegate.control.cli.verb import Verb, needs_extra
from sluicegate.schemas.printable import PrintableFormatter


@click.command(cls=Verb, short_help="Run the control plane.", examples=(". .sluicegate/control.env; sluicegate serve",))
@options.json_output
def serve(*, as_json: bool) -> None:
    """Run the control plane in the foreground until SIGTERM or Ctrl-C; docs/settings.md lists what it reads."""
    with needs_extra("control"):
        from sluicegate.control.process import plane

    # The embedding process decides where a library's log goes; here we are that process.
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    plane.serve(os.environ, ready=lambda url: _say_serving(url, as_json))


def _say_serving(url: str, as_json: bool) -> None:
    from sluicegate.control.cli.render import terminal

    if as_json:
        terminal.say_json({"url": url})
    else:
        terminal.say(f"the control plane answers at {url}")
