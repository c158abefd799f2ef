"""The types that an artifact may hold, and how each is made from its pickled form.

The unpickling code of a type never runs. A plain object gets its attributes, a dataclass its
fields, an array its numbers. A tree is C code that trusts its input, so it gets only numbers that
were checked here. Serving reads scikit-learn's types into records (`models.serve.estimators`); only
a process that publishes an artifact again gets scikit-learn's own objects.

A type that training learns to write needs a row in the tables below. Publishing refuses a model
that holds any other type.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from models.serve.estimators import DecisionTree, RandomForest, Scaler, Selector, Tree
from models.serve.pickles import PickledName, PickledObject, dtype_of
from models.serve.refused import Refused

_MAX_DEPTH = 32
_MAX_FEATURES = 4096

Maker = Callable[[str, tuple[Any, ...], Any], Any]


def build(value: Any, names: list[str], *, scikit: bool = False) -> Any:
    """Build the objects that pickled data describes; `names` are all names in the file.

    With `scikit` the estimators are scikit-learn's own classes. Raises Refused before it builds
    anything if a name is not allowed, and ValueError, TypeError or KeyError if a pickled object
    does not fit its type.
    """
    if foreign := [name for name in names if name not in _ALLOWED]:
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise Refused(
            f"its artifact would load {', '.join(foreign[:5])}{more}, which no model needs"
        )
    return _ObjectBuilder(
        _OWN | (_SCIKIT if scikit else _SERVED), _FUNCTIONS if scikit else set()
    ).build(value, 0)


class _ObjectBuilder:
    """Builder of objects by the `makers` of their names.

    It looks up a name among `functions` and never calls it.
    """

    def __init__(self, makers: Mapping[str, Maker], functions: set[str]) -> None:
        self._makers = makers
        self._functions = functions
        self._done: dict[int, Any] = {}

    def build(self, value: Any, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise Refused("its artifact is nested too deeply")
        if not isinstance(value, PickledObject | PickledName | list | dict | tuple):
            return value
        # By identity: an object that the file shares is built once.
        if id(value) not in self._done:
            self._done[id(value)] = self._made(value, depth + 1)
        return self._done[id(value)]

    def _made(self, value: Any, depth: int) -> Any:
        match value:
            case PickledObject(name="numpy.dtype"):
                return dtype_of(value)
            case PickledObject():
                args = tuple(self.build(arg, depth) for arg in value.args)
                state = self.build(value.state, depth)
                return self._makers[value.name](value.name, args, state)
            case PickledName(name=name) if name in self._functions:
                return _class(name)
            case PickledName():
                return value  # only a PickledObject makes an object of a type
            case dict():
                return {key: self.build(item, depth) for key, item in value.items()}
            case tuple():
                return tuple(self.build(item, depth) for item in value)
            case _:
                return [self.build(item, depth) for item in value]


def fixed_name(kind: Any) -> str | None:
    """Return the name that artifacts use for one of our classes, None for anything else."""
    if not isinstance(kind, type):
        return None
    return _FIXED_NAMES.get(f"{kind.__module__}.{kind.__qualname__}")


def _class(name: str) -> Any:
    module, _, own = _MOVED.get(name, name).rpartition(".")
    return getattr(importlib.import_module(module), own)


def _object_with_attributes(name: str, args: tuple[Any, ...], state: Any) -> Any:
    """Return an object whose state is its attributes, as in scikit-learn's estimators."""
    if args or not isinstance(state, dict):
        raise ValueError(f"{name} has a state of another kind")
    made = object.__new__(_class(name))
    made.__dict__.update({key: item for key, item in state.items() if key != "_sklearn_version"})
    return made


def _dataclass(name: str, args: tuple[Any, ...], state: Any) -> Any:
    """Return a frozen slotted dataclass of this project.

    Its state is the list of its fields, each of its declared type.
    """
    kind = _class(name)
    hints = _hints(kind)
    if args or not isinstance(state, list) or not _fit(state, list(hints.values())):
        raise ValueError(f"{name} does not have the fields that this code knows")
    made = object.__new__(kind)
    for field, item in zip(hints, state, strict=True):
        object.__setattr__(made, field, item)
    return made


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of an annotated type, all the way down."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, option) for option in inner)
    if kind is float:
        return type(value) in (float, int)
    if type(value) is not kind:
        return False
    if kind is np.ndarray:
        return bool(value.dtype == get_args(inner[1])[0])
    if kind is tuple and inner[1:] != (...,):
        return _fit(value, inner)
    if kind in (tuple, list, dict):
        # Each item once, even if the file repeats it.
        distinct = {id(item): item for item in (value.values() if kind is dict else value)}
        return all(_fits(item, inner[kind is dict]) for item in distinct.values())
    return True


def _fit(values: Sequence[Any], hints: Sequence[Any]) -> bool:
    return len(values) == len(hints) and all(map(_fits, values, hints))


def _scalar(_name: str, args: tuple[Any, ...], _state: Any) -> Any:
    dtype, data = args
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf" or len(data) != dtype.itemsize:
        raise ValueError("a number has no type")
    return np.frombuffer(data, dtype)[0]


def _texts(_name: str, _args: tuple[Any, ...], state: Any) -> NDArray[np.object_]:
    """Return an array of objects that are all text, as column names are."""
    _version, shape, _dtype, _order, items = state
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError("an array holds objects that are no text")
    return np.array(items, dtype=object).reshape(shape)


def _encoded(_name: str, args: tuple[Any, ...], _state: Any) -> bytes:
    """Return bytes as pickle protocol 2 writes them."""
    text, encoding = args
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes are written in another encoding")
    return text.encode("latin1")


def _fitted(kind: type) -> Maker:
    """Return the maker of an estimator record: it keeps the attributes that the record has."""
    kept = [field.name for field in fields(kind)]

    def make(name: str, args: tuple[Any, ...], state: Any) -> Any:
        if args or not isinstance(state, dict):
            raise ValueError(f"{name} has a state of another kind")
        return kind(**{key: state[key] for key in kept if key in state})

    return make


def _tree(_name: str, args: tuple[Any, ...], state: Any) -> Tree:
    """Return a decision tree of two classes after a check of every node."""
    k, classes, outputs = args
    nodes, values, depth = state["nodes"], state["values"], state["max_depth"]
    if not (
        type(k) is int and 0 < k <= _MAX_FEATURES and outputs == 1 and np.array_equal(classes, [2])
    ):
        raise ValueError("a tree does not have two classes")
    n = len(nodes)
    if any(nodes.dtype[field] != kind for field, kind in _NODE.items()):
        raise ValueError("a tree's nodes are not in the form of this scikit-learn")
    if nodes.shape != (n,) or values.shape != (n, 1, 2) or values.dtype != np.float64:
        raise ValueError("a tree's nodes are not in the form of this scikit-learn")
    if not (n > 0 and type(depth) is int and 0 <= depth < n and state["node_count"] == n):
        raise ValueError("a tree's depth or size is not that of its nodes")
    left, right, own = nodes["left_child"], nodes["right_child"], np.arange(n)
    leaf = left == -1
    # Children come after their parent, so every walk ends at a node of the tree.
    inner = (
        (left > own)
        & (right > own)
        & (left < n)
        & (right < n)
        & (nodes["feature"] >= 0)
        & (nodes["feature"] < k)
    )
    if not np.where(leaf, right == -1, inner).all():
        raise ValueError("a tree's nodes do not make a tree")
    return Tree(k, depth, nodes, values)


def _scikit_tree(name: str, args: tuple[Any, ...], state: Any) -> Any:
    """Return the tree as scikit-learn's own class.

    Its C code does not check its input, so the nodes must have the form of the installed version.
    """
    checked = _tree(name, args, state)
    if checked.nodes.dtype != _class("sklearn.tree._tree.NODE_DTYPE"):
        raise ValueError("a tree's nodes are not in the form of this scikit-learn")
    made = _class(name)(checked.n_features, np.array([2], dtype=np.intp), 1)
    made.__setstate__(
        {
            "max_depth": checked.max_depth,
            "node_count": checked.node_count,
            "nodes": checked.nodes,
            "values": np.ascontiguousarray(checked.value),
        }
    )
    return made


# The fields of a node that this code reads.
_NODE = {
    "left_child": np.int64,
    "right_child": np.int64,
    "feature": np.int64,
    "threshold": np.float64,
}

_FOREST = "sklearn.ensemble._forest.RandomForestClassifier"
_DECISION_TREE = "sklearn.tree._classes.DecisionTreeClassifier"
_SCALER = "sklearn.preprocessing._data.StandardScaler"
_SELECTOR = "sklearn.feature_selection._univariate_selection.SelectKBest"
_TREE = "sklearn.tree._tree.Tree"

_SERVED: dict[str, Maker] = {
    _FOREST: _fitted(RandomForest),
    _DECISION_TREE: _fitted(DecisionTree),
    _SCALER: _fitted(Scaler),
    _SELECTOR: _fitted(Selector),
    _TREE: _tree,
}
_SCIKIT: dict[str, Maker] = {
    **dict.fromkeys((_FOREST, _DECISION_TREE, _SCALER, _SELECTOR), _object_with_attributes),
    _TREE: _scikit_tree,
}
# Names in artifacts never change, so that a published artifact stays readable and signed.
_MOVED = {
    "models.calibrate.Calibrator": "models.serve.calibrators.Calibrator",
    "models.forest.Forest": "models.serve.forest.Forest",
    "models.venn_abers.VennAbers": "models.serve.venn_abers.VennAbers",
}
_FIXED_NAMES = {now: name for name, now in _MOVED.items()}
_OWN: dict[str, Maker] = {
    "features.calendar.Calendar": _dataclass,
    "features.distribution.Distribution": _dataclass,
    "features.fitted.FittedFeatures": _dataclass,
    "features.spec.CalendarSettings": _dataclass,
    "features.spec.FeatureSpec": _dataclass,
    "features.spec.Specification": _dataclass,
    "models.calibrate.Calibrator": _dataclass,
    "models.forest.Forest": _dataclass,
    "models.venn_abers.VennAbers": _dataclass,
    "numpy._core.multiarray._reconstruct": _texts,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.multiarray._reconstruct": _texts,  # the names of numpy 1
    "numpy.core.multiarray.scalar": _scalar,
    "_codecs.encode": _encoded,
}
# Values that nothing calls while a model loads or serves.
_FUNCTIONS = {"sklearn.feature_selection._univariate_selection.f_classif"}
_ALLOWED = {*_OWN, *_SERVED, *_FUNCTIONS, "numpy.dtype", "numpy.ndarray"}
