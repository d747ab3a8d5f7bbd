"""What puts faults into the code puts them where code acts, and nowhere else."""

from __future__ import annotations

import ast

from tests.mutation.faults import faults_in

SOURCE = '''
"""Text with a < b."""
LIMIT = 3


def judge(self, a: int = 1) -> bool:
    """Is 1 < 2?"""
    log.info("seen %d", 3)
    if a < 2:
        self.seen = True
        del self.books[a]
    self.tell(a)
    é = f"{a == 3}"
    return a is not None
'''


def test_comparisons_constants_and_lines_that_act_are_found() -> None:
    found = [(fault.line, fault.kind, fault.after) for fault in faults_in("x.py", SOURCE)]
    assert found == [
        (9, "comparison", "a <= 2"),
        (9, "constant", "3"),
        (10, "left out", "pass"),
        (10, "constant", "False"),
        (11, "left out", "pass"),
        (12, "left out", "pass"),
        (14, "comparison", "a is None"),
    ]


def test_a_fault_changes_its_place_alone_and_what_comes_out_can_be_parsed() -> None:
    for fault in faults_in("x.py", SOURCE):
        changed = fault.put_into(SOURCE)
        ast.parse(changed)
        differing = [
            number
            for number, (old, new) in enumerate(zip(SOURCE.split("\n"), changed.split("\n"), strict=True), start=1)
            if old != new
        ]
        assert differing == [fault.line]
