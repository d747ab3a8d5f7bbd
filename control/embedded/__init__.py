"""Real Postgres and real Valkey as children of this process, for `sluicegate up`, the demo and the tests."""

from sluicegate.control.embedded.postgres import EmbeddedPostgres
from sluicegate.control.embedded.process import EmbeddedServerError
from sluicegate.control.embedded.valkey import EmbeddedValkey

__all__ = ["EmbeddedPostgres", "EmbeddedServerError", "EmbeddedValkey"]
