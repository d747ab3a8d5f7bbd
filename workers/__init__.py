"""The data plane: what runs inside a Celery worker. It never needs the control plane's dependencies."""
