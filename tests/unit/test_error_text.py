"""Texts of other libraries' errors: none may reach a person empty or without its cause."""

import ast
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from leadstream.errors import error_text

ROOT = Path(__file__).parents[2]
ROOMS = ("consumer", "features", "leadstream", "models", "producer", "schemas")
SOURCES = {
    path: ast.parse(path.read_text()) for room in ROOMS for path in (ROOT / room).rglob("*.py")
}
OWN = {
    node.name
    for tree in SOURCES.values()
    for node in ast.walk(tree)
    if isinstance(node, ast.ClassDef)
}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TimeoutError(), "TimeoutError"),
        (ConnectionResetError("  "), "ConnectionResetError"),
        (zlib.error("Error -3: "), "Error -3: error"),
        (ValueError("it is odd\n"), "it is odd"),
        (KafkaException(KafkaError(KafkaError._TRANSPORT, "")), "_TRANSPORT"),
        (
            KafkaException(KafkaError(KafkaError.COORDINATOR_NOT_AVAILABLE, "ListGroups: ")),
            "ListGroups: COORDINATOR_NOT_AVAILABLE",
        ),
        (KafkaError(KafkaError._TRANSPORT), "Local: Broker transport failure"),
    ],
)
def test_an_error_without_a_text_says_at_least_what_it_is(error: object, text: str) -> None:
    assert error_text(error) == text


def foreign_handlers() -> Iterator[tuple[Path, ast.ExceptHandler]]:
    """Yield the handlers that keep an error of another library."""
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and node.name and not _caught(node.type) <= OWN:
                yield path, node


def _caught(kind: ast.expr | None) -> set[str]:
    if isinstance(kind, ast.Tuple):
        return set().union(*map(_caught, kind.elts))
    return {ast.unparse(kind).split(".")[-1]} if kind else {"BaseException"}


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all parts but comparisons, which show nothing."""
    if not isinstance(node, ast.Compare):
        yield node
        for part in ast.iter_child_nodes(node):
            yield from _parts(part)


def _is_bare(node: ast.AST, name: str) -> bool:
    """Return whether a part shows an error by its text alone."""
    match node:
        case ast.Call(func=ast.Name("str"), args=[ast.Name(shown)]):
            return shown == name
        case ast.FormattedValue(value=ast.Name(shown), conversion=-1):
            return shown == name
        case ast.Call(func=ast.Attribute(attr="str")):
            return True
    return False


def test_the_text_of_a_foreign_error_is_shown_by_the_one_function_that_completes_it() -> None:
    bare = {
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        for path, handler in foreign_handlers()
        for node in _parts(handler)
        if _is_bare(node, str(handler.name))
        and f"type({handler.name}).__name__" not in ast.unparse(handler)
    }
    assert bare == set()
