"""The settings of the Django project in `django_site`."""

from __future__ import annotations

import os

SECRET_KEY = "for a test"
INSTALLED_APPS = ["django_celery_results", "django_celery_beat"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["BESIDE_DATABASE"],
        "OPTIONS": {"timeout": 20, "init_command": "PRAGMA journal_mode=WAL", "transaction_mode": "IMMEDIATE"},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
