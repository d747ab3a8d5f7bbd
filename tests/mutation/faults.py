"""Small faults that somebody could make: where they can be put into a module, and how it then reads. Pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

_TURNED: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
_LOGGERS = ("log", "logger", "logging")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault: the text from (line, column) to (end_line, end_column), which counts bytes, becomes `after`."""

    path: str
    line: int
    column: int
    end_line: int
    end_column: int
    before: str
    after: str
    kind: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.kind}: {_short(self.before)} -> {_short(self.after)}"

    def put_into(self, source: str) -> str:
        """`source`, which must be the text that the fault was found in, with the fault."""
        lines = source.encode().split(b"\n")
        head = lines[self.line - 1][: self.column]
        tail = lines[self.end_line - 1][self.end_column :]
        lines[self.line - 1 : self.end_line] = [head + self.after.encode() + tail]
        return b"\n".join(lines).decode()


def faults_in(path: str, source: str) -> list[Fault]:
    """Every place of `source` for a fault, in the order of its lines: a comparison turned, a line left out, a constant
    changed. What only documents, types or logs is passed over.
    """
    found = [
        Fault(
            path=path,
            line=node.lineno,
            column=node.col_offset,
            end_line=node.end_lineno or node.lineno,
            end_column=node.end_col_offset or 0,
            before=ast.get_source_segment(source, node) or "",
            after=after,
            kind=kind,
        )
        for node, after, kind in _places(ast.parse(source), source)
    ]
    return sorted(found, key=lambda fault: (fault.line, fault.column, fault.kind))


Place = tuple[ast.expr | ast.stmt, str, str]


def _places(tree: ast.Module, source: str) -> Iterator[Place]:
    for node in _acting(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            left, right = (ast.get_source_segment(source, side) or "" for side in (node.left, node.comparators[0]))
            yield node, f"{left} {_TURNED[type(node.ops[0])]} {right}", "comparison"
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield node, str(not node.value), "constant"
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float) and node.value < 1e6:
            yield node, repr(node.value + 1), "constant"
        elif _can_be_left_out(node):
            yield node, "pass", "left out"


def _can_be_left_out(node: ast.AST) -> bool:
    """Statements that act and bind no local name: without a name that is read later nothing would be the same."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call | ast.Await)
    if isinstance(node, ast.Assign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return all(isinstance(target, ast.Attribute | ast.Subscript) for target in targets)
    return isinstance(node, ast.Delete)


def _acting(tree: ast.Module) -> Iterator[ast.expr | ast.stmt]:
    """The nodes of function bodies, without docstrings, annotations and what is only said to a log."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in function.body:
                if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    yield from _below(statement)


def _below(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.JoinedStr) or _only_says(node):
        return
    if isinstance(node, ast.expr | ast.stmt):
        yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _below(child)


def _only_says(node: ast.AST) -> bool:
    match node:
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))):
            return name in _LOGGERS
        case ast.Raise():
            return True
    return False


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
