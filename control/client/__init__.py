"""The typed client of the control plane's REST API. It needs the base install only: schemas and httpx."""

from sluicegate.control.client.answers import Reply, RunningBody, WorkerBody, WorkersAnswer
from sluicegate.control.client.api import Client
from sluicegate.control.client.rejections import InputRejected

__all__ = ["Client", "InputRejected", "Reply", "RunningBody", "WorkerBody", "WorkersAnswer"]
