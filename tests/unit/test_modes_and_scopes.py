"""The words of the contract: modes and scopes parse, match, and say clearly what is wrong."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import GLOBAL, Scope, Subject
from tests.unit.strategies import scopes

SUBJECT = Subject(queue="gpu", host="rack7", worker="w1@rack7", task="app.train", labels={"gpu": "h100", "rack": "7"})


def test_modes_are_ordered_so_that_max_composes_them():
    assert Mode.RUN < Mode.DRAIN < Mode.QUIESCE
    assert [mode.word for mode in sorted(Mode)] == ["run", "drain", "quiesce"]


@pytest.mark.parametrize("word", ["run", "DRAIN", "", None, 1, "stop", True])
def test_a_hold_has_no_other_mode_than_drain_or_quiesce(word):
    with pytest.raises(InvalidInput, match="use drain or quiesce") as caught:
        Mode.of_hold(word)
    assert caught.value.field == "mode"


@given(scopes)
def test_a_scope_has_one_spelling(scope):
    assert Scope.parse(str(scope)) == scope


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("global", True),
        ("queue:gpu", True),
        ("queue:cpu", False),
        ("host:rack7", True),
        ("host:rack", False),
        ("worker:w1@rack7", True),
        ("worker:rack7", False),
        ("task:app.train", True),
        ("task:train", False),
        ("label:gpu=h100", True),
        ("label:gpu=a100", False),
        ("label:zone=7", False),
        ("label:rack=7", True),
    ],
)
def test_each_kind_matches_its_own_part_of_a_claim(text, matches):
    assert Scope.parse(text).matches(SUBJECT) is matches


@given(scopes)
def test_a_claim_that_says_nothing_is_within_global_alone(scope):
    assert scope.matches(Subject()) is (scope == GLOBAL)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not a scope"),
        (None, "is not a scope"),
        (7, "is not a scope"),
        ("fleet", "is not a scope"),
        ("Queue:a", "is not a scope"),
        ("global:", "takes no name"),
        ("global:x", "takes no name"),
        ("queue:", "names nothing"),
        ("queue: a", "no space at its ends"),
        ("queue:a\n", "no control characters"),
        ("queue:a*", "wildcards are not supported"),
        ("task:" + "x" * 256, "at most 255"),
        ("label:gpu", "KEY=VALUE"),
        ("label:=h100", "KEY=VALUE"),
        ("label:gpu=", "KEY=VALUE"),
    ],
)
def test_what_is_no_scope_is_refused_with_the_reason(text, says):
    with pytest.raises(InvalidInput, match=says) as caught:
        Scope.parse(text)
    assert caught.value.field == "scope"


@given(st.text())
def test_any_text_is_a_scope_with_that_spelling_or_a_clear_error(text):
    with suppress(InvalidInput):
        assert str(Scope.parse(text)) == text
