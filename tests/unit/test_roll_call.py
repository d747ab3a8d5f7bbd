"""Who answers Celery and sends no heartbeat; whatever is written to the mailbox."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.schemas.progress import Sighting, WorkerView, view
from sluicegate.schemas.roll_call import answer_of, strangers
from sluicegate.schemas.scopes import GLOBAL, Scope
from sluicegate.schemas.snapshots import Edition
from tests.unit.strategies import NOW
from tests.unit.test_progress import beat

CELERY = frozenset({"celery"})
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("name"), inner, max_size=3)
    ),
    max_leaves=10,
)


def listed(nodename: str = "w1@h", *, ago_s: float = 0.0, queues: tuple[str, ...] = ("celery",), **said) -> WorkerView:
    sighting = Sighting(beat=beat(nodename=nodename, queues=queues, **said), seen_at=NOW - timedelta(seconds=ago_s))
    return view(sighting, desired=Edition(1, 7), lease=timedelta(seconds=10), now=NOW)


@given(json)
def test_whatever_is_answered_gives_names_that_can_be_printed_or_nothing(reply):
    for nodename, queues in answer_of(reply).items():
        assert all(name and name.isprintable() and len(name) <= 255 for name in (nodename, *queues))


def test_an_answer_of_celery_names_the_queues():
    assert answer_of({"w1@h": [{"name": "celery", "exchange": {}}, {"name": "mail"}]}) == {"w1@h": {"celery", "mail"}}


def test_who_consumes_and_is_not_listed_is_a_stranger():
    """One that fell silent or said goodbye is listed: it is told of as that."""
    answers = dict.fromkeys(("w1@h", "w2@h", "w3@h", "w9@h"), CELERY)
    workers = [listed(), listed("w2@h", ago_s=60), listed("w3@h", is_goodbye=True)]
    assert strangers(answers, workers, GLOBAL) == ("w9@h",)


def test_who_consumes_nothing_starts_nothing():
    """A worker of another fleet that is paused there, for one."""
    assert strangers({"w9@h": frozenset()}, [listed()], GLOBAL) == ()


@pytest.mark.parametrize(("workers", "told"), [([listed()], ()), ([], ("w9@h",))], ids=["known", "nobody is known"])
def test_who_consumes_only_others_queues_is_another_fleets_unless_nobody_is_known(workers, told):
    """Where no worker is known, nobody can say which queues are ours: the namespace may be the wrong one."""
    assert strangers({"w9@h": frozenset({"theirs"})}, workers, GLOBAL) == told


@pytest.mark.parametrize(
    ("scope", "is_in"),
    [
        ("queue:celery", True),
        ("queue:mail", False),
        ("host:h", True),
        ("host:g", False),
        ("worker:w9@h", True),
        ("worker:w1@h", False),
        ("task:app.train", True),
        ("label:rack=1", False),
    ],
)
def test_a_stranger_is_told_of_where_the_scope_covers_what_it_consumes(scope, is_in):
    assert strangers({"w9@h": CELERY}, [listed()], Scope.parse(scope)) == (("w9@h",) if is_in else ())
