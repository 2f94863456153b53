"""The list of event types is what the code emits: an outlet can ask for every one, and for no other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from pipeline.events import TYPES

ROOT = Path(__file__).parents[2]
MAKERS = {"_emit", "bundle_event", "card_event", "endpoint_event", "moved_card_event"}
"""Functions whose first argument is the type of the event they make."""


def told(function: ast.AST) -> Iterator[ast.expr]:
    """What stands for the type of an event, wherever a function makes one."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in MAKERS:
                yield node.args[0]
            if node.func.id == "Event":
                yield from (keyword.value for keyword in node.keywords if keyword.arg == "type")


def words(value: ast.expr, function: ast.AST) -> Iterator[str]:
    """Every text that an expression can come to, through names that the function gives."""
    match value:
        case ast.Constant(value=str(word)):
            yield word
        case ast.IfExp():
            yield from words(value.body, function)
            yield from words(value.orelse, function)
        case ast.Name():
            for node in ast.walk(function):
                if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [value.id]:
                    yield from words(node.value, function)
        case _:
            raise AssertionError(f"cannot follow {ast.unparse(value)}")


def test_the_types_that_are_listed_are_those_that_are_emitted() -> None:
    emitted = set()
    for package in ("pipeline", "producers", "workers"):
        for path in (ROOT / package).rglob("*.py"):
            for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(function, ast.FunctionDef):
                    emitted |= {word for value in told(function) for word in words(value, function)}
    assert emitted == TYPES


def test_every_type_is_in_the_document_for_outlets() -> None:
    text = (ROOT / "docs" / "outlets.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith("| ") and "." in row]
    for subject in {kind.partition(".")[0] for kind in TYPES}:
        [row] = [row for row in rows if row.startswith(f"| {subject}s |")]
        absent = {kind for kind in TYPES if kind.startswith(f"{subject}.")} - {
            word if "." in word else f"{subject}.{word}" for word in row.split("`")[1::2]
        }
        assert not absent
