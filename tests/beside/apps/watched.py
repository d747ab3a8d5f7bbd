"""The fleet's own app, with task events for Flower."""

from __future__ import annotations

from tests.fleet.app import app

app.conf.update(worker_send_task_events=True, task_send_sent_event=True)
