"""The verb `acl`: the rules of the users of a Redis or Valkey, to be pasted into its own command line."""

from __future__ import annotations

import os

import click

from sluicegate.control.cli import options
from sluicegate.control.cli.verb import Verb
from sluicegate.schemas.settings import NAMESPACE


@click.command(
    cls=Verb,
    short_help="The Redis users that workers and the control plane need.",
    examples=("sluicegate acl --queue celery --queue mail --database 1",),
)
@options.option("--queue", "queues", multiple=True, metavar="NAME", help="A queue of the fleet; give it once for each.")
@options.option("--database", type=click.IntRange(0), default=0, show_default=True, help="The broker's database.")
@options.json_output
def acl(*, queues: tuple[str, ...], database: int, as_json: bool) -> None:
    """Print an ACL SETUSER line for each user that a fleet needs; docs/security.md says which is whose.

    The lines set no password and switch no user on: `ACL SETUSER NAME on '>PASSWORD'` does, in the server's own
    command line. The broker's line comes where a queue is named.
    """
    from sluicegate.control.cli.render import terminal
    from sluicegate.control.links import redis_acl

    namespace = NAMESPACE.read(os.environ)
    rules = {
        redis_acl.WORKER: redis_acl.worker_rules(namespace),
        redis_acl.CONTROL: redis_acl.control_rules(namespace),
    }
    if queues:
        rules[redis_acl.BROKER] = redis_acl.broker_rules(queues, database)
    if as_json:
        terminal.say_json(rules)
        return
    for user, rule in rules.items():
        terminal.say(f"ACL SETUSER {user} {' '.join(rule)}")
