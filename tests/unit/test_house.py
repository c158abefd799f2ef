"""The house: which rooms may import which."""

import ast
from collections.abc import Iterator, Set
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.style import check_class_names, check_module_names, sources

ROOT = Path(__file__).parents[2]
# A room is a package; leadstream/cli and leadstream/local are rooms of their own.
ROOMS: dict[str, set[str]] = {
    "leadstream": set(),
    "schemas": {"leadstream"},
    "features": {"leadstream"},
    "models": {"features", "leadstream"},
    "producer": {"schemas", "leadstream"},
    "consumer": {"models", "features", "schemas", "leadstream"},
    "leadstream.local": {"leadstream"},
    "leadstream.cli": {
        "consumer",
        "models",
        "features",
        "schemas",
        "producer",
        "leadstream",
        "leadstream.local",
    },
}
NESTED = {"leadstream.cli", "leadstream.local"}


def room_of(module: str) -> str:
    """Return the room that a dotted module name belongs to."""
    first_two = ".".join(module.split(".")[:2])
    return first_two if first_two in NESTED else module.split(".", maxsplit=1)[0]


def modules(room: str) -> dict[str, Path]:
    """Return the files of a room by their dotted names."""
    found = {}
    for path in sorted((ROOT / room.replace(".", "/")).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if room_of(name) == room:
            found[name] = path
    return found


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_an_import_against_the_direction_of_the_house_would_tie_the_rooms_into_a_knot(
    room: str,
) -> None:
    files = modules(room)
    assert files
    for module, path in files.items():
        rooms = {room_of(name) for name in imported(path)}
        assert rooms & ROOMS.keys() <= ROOMS[room] | {room}, module


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes below this one, without what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        test = child.test if isinstance(child, ast.If) else None
        if not (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"):
            yield child
            yield from _nodes(child)


def imported_modules(path: Path, known: Set[str]) -> set[str]:
    """Return which of the known modules a file imports, at its top or inside functions."""
    names: set[str] = set()
    for node in _nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            full_names = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (full_names & known) or {node.module}
    return names & known


def test_modules_that_import_each_other_in_a_circle_cannot_be_read_one_by_one() -> None:
    files = {name: path for room in ROOMS for name, path in modules(room).items()}
    graph = {name: imported_modules(path, files.keys()) - {name} for name, path in files.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(files)


def test_scoring_must_not_know_the_clients_of_kafka_and_postgres_or_the_loop() -> None:
    for module, path in modules("consumer").items():
        if module.startswith("consumer.scoring"):
            names = imported(path)
            assert not {name.split(".")[0] for name in names} & {"confluent_kafka", "psycopg"}
            assert not any(name.startswith("consumer.run") for name in names), module


@pytest.mark.parametrize("room", ["features", "models"])
def test_features_and_models_must_not_know_kafka_or_postgres(room: str) -> None:
    for module, path in modules(room).items():
        packages = {name.split(".")[0] for name in imported(path)}
        assert not packages & {"confluent_kafka", "psycopg"}, module
        assert not any(name.startswith("leadstream.kafka") for name in imported(path)), module


def test_features_must_not_read_a_clock_or_a_file() -> None:
    for module, path in modules("features").items():
        packages = {name.split(".")[0] for name in imported(path)}
        assert not packages & {"time", "os", "io", "pathlib", "socket", "random"}, module


def test_the_wheel_must_not_bring_the_tests_along() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    packages = project.split("[tool.setuptools.packages.find]")[1].split("]")[0]
    assert "tests" not in packages
    assert all(room.split(".")[0] in packages for room in ROOMS)


# Each may import only those before it.
MODEL_ROOMS = ["evaluate", "serve", "registry", "monitor", "train"]


def test_an_import_against_the_direction_among_the_models_rooms_would_make_a_cycle() -> None:
    files = {name: path for name, path in modules("models").items() if name != "models"}
    assert {name.split(".")[1] for name in files} == set(MODEL_ROOMS)
    for module, path in files.items():
        own = MODEL_ROOMS.index(module.split(".")[1])
        names = {name.split(".")[1] for name in imported(path) if name.startswith("models.")}
        assert all(MODEL_ROOMS.index(name) <= own for name in names), module


def test_two_models_files_that_import_each_other_could_not_be_read_in_order() -> None:
    files = modules("models")
    edges = {
        module: {
            target
            for name in imported(path)
            for target in (name, name.rpartition(".")[0])
            if target in files and target != module and target != "models"
        }
        for module, path in files.items()
    }
    done: set[str] = set()
    while ready := {module for module in edges.keys() - done if edges[module] <= done}:
        done |= ready
    assert sorted(edges.keys() - done) == []


@pytest.mark.slow
def test_a_class_or_module_name_used_twice_would_leave_the_reader_guessing() -> None:
    code = sources()
    assert [str(each) for each in (*check_class_names(code), *check_module_names(code))] == []
