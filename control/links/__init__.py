"""The ways out to Redis and to Celery's broker."""
