"""The model of the gate: the design holds in every reachable state, and each mutant fails (docs/model.md)."""

from __future__ import annotations

import os

import pytest

from tests.model.checking import VARIANTS, Variant, check, is_as_it_should_be, missing

absent = missing()
# CI installs them, and never skips.
can_skip = bool(absent) and os.environ.get("CI") != "true"
pytestmark = [
    pytest.mark.long,  # it is about the design, and no line of the product can make it fail
    pytest.mark.skipif(can_skip, reason=f"not on PATH: {', '.join(absent)} (Debian: apt-get install spin gcc)"),
    pytest.mark.timeout(300),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name.replace(" ", "-"))
def test_s1_s2_s4_the_design_holds_and_every_mutant_fails_for_its_reason(variant: Variant) -> None:
    found = check(variant)
    assert is_as_it_should_be(variant, found), found
