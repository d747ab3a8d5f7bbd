"""The typed client of the control plane's REST API. It needs the base install only: schemas and httpx."""

from sluicegate.control.client.api import Client
from sluicegate.control.client.rejections import InputRejected
from sluicegate.control.client.reply import Reply

__all__ = ["Client", "InputRejected", "Reply"]
