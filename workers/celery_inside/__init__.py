"""Everything that touches the insides of Celery, kombu, billiard, py-amqp and gevent. Nothing else in sluicegate does.

`relied_on` lists what is relied on, and the versions that it was read from; `tests/unit/test_celery_inside.py` asserts
each name and each shape, so that a new version that changes one fails loudly. `marks` lists what is put on Celery's
objects, and what of them is replaced.
"""
