"""What is put on Celery's objects stands in one list (`celery_inside/marks.py`), and nothing else is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from sluicegate.workers.celery_inside import relied_on
from sluicegate.workers.celery_inside.marks import ADDED, MODULE_GLOBALS, REPLACED

WORKERS = Path(__file__).parents[2] / "workers"
TREES = {path: ast.parse(path.read_text()) for path in sorted(WORKERS.rglob("*.py"))}

# The control command's name, and the fixtures' of `sluicegate.testing`: neither is put on anybody's object.
OTHER_NAMES = {"sluicegate_hint", "sluicegate_app", "sluicegate_gate", "sluicegate_worker"}


def targets(tree: ast.AST) -> Iterator[ast.expr]:
    """What is assigned to, in place too, and deleted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                yield from target.elts if isinstance(target, ast.Tuple) else [target]
        elif isinstance(node, ast.Delete):
            yield from node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            yield node.target


def set_on_others(tree: ast.AST) -> set[str]:
    """The attributes that are set on what is not `self`, and those whose items are."""
    found = set()
    for target in targets(tree):
        place = target.value if isinstance(target, ast.Subscript) else target
        if isinstance(place, ast.Attribute) and not (isinstance(place.value, ast.Name) and place.value.id == "self"):
            found.add(place.attr)
    return found


def own_fields(tree: ast.AST) -> set[str]:
    """The annotated fields of our own classes."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    fields = [entry.target for own in classes for entry in own.body if isinstance(entry, ast.AnnAssign)]
    return {field.id for field in fields if isinstance(field, ast.Name)}


def test_what_is_set_on_other_people_s_objects_is_listed_and_all_that_is_listed_is_set() -> None:
    own = set().union(*map(own_fields, TREES.values()))
    found = set().union(*map(set_on_others, TREES.values())) - own
    # A key of the request's dict: the dict's name is seen here, and its key in the next test.
    assert found - {"request_dict"} == REPLACED.keys() | ADDED.keys() - {"sluicegate_queue"}


def test_no_other_name_of_ours_is_read_from_or_put_on_anything() -> None:
    named = {name for path in TREES for name in re.findall(r"\bsluicegate_\w+", path.read_text())}
    assert named - OTHER_NAMES == ADDED.keys() - {"sluicegate"}


def test_nothing_is_set_by_its_name_as_text() -> None:
    """`setattr` would hide from this."""
    calls = [node.func for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id in {"setattr", "delattr"}]


def test_module_globals_that_are_set_after_import_are_listed() -> None:
    statements = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Global)]
    assert {name for statement in statements for name in statement.names} == MODULE_GLOBALS.keys()


def test_what_is_relied_on_is_listed_by_the_module_that_does_and_every_such_module_is_there() -> None:
    """Who reads Celery's source again for a new version then knows what to look at here."""
    lists = re.findall(r"^\[([\w, ]+)\]$", relied_on.__doc__ or "", re.MULTILINE)
    named = {name for line in lists for name in line.split(", ")}
    know_nothing_of_celery = {"__init__", "marks", "redis_debts", "redis_redelivery", "relied_on"}
    assert named == {path.stem for path in (WORKERS / "celery_inside").glob("*.py")} - know_nothing_of_celery
