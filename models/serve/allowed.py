"""The types that an artifact may hold, and how each is made from its record (see models/serve/pickles.py).

Nothing of a type's own unpickling runs: a plain object gets its attributes, a dataclass its fields, an array its
numbers, and a tree, which is C and trusts what it is given, only numbers that were checked here. Of scikit-learn's
types serving gets records (models/serve/estimators.py), and only who publishes again its own objects. A type that training
learns to write needs a row in the tables below; publishing refuses a model that holds any other.
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
from models.serve.pickles import Name, Record, dtype_of
from models.serve.refused import Refused

_DEEPEST = 32
_MOST_FEATURES = 4096

Maker = Callable[[str, tuple[Any, ...], Any], Any]


def build(value: Any, names: list[str], *, scikit: bool = False) -> Any:
    """The objects that data and records stand for; `names` are all names that the file asks for.

    With `scikit` the estimators are scikit-learn's own, which is imported for it. Raises Refused, with nothing made, if
    a name is not allowed; ValueError, TypeError or KeyError where a record is not what its type has.
    """
    if foreign := [name for name in names if name not in _ALLOWED]:
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise Refused(
            f"its artifact would load {', '.join(foreign[:5])}{more}, which no model needs"
        )
    return _Builder(_OWN | (_SCIKIT if scikit else _SERVED), _FUNCTIONS if scikit else set()).build(
        value, 0
    )


class _Builder:
    """Makes objects by the `makers` of their names; a name among `functions` is looked up, and never called."""

    def __init__(self, makers: Mapping[str, Maker], functions: set[str]) -> None:
        self._makers = makers
        self._functions = functions
        self._done: dict[int, Any] = {}

    def build(self, value: Any, depth: int) -> Any:
        if depth > _DEEPEST:
            raise Refused("its artifact is nested too deeply")
        if not isinstance(value, Record | Name | list | dict | tuple):
            return value
        # By identity: what is shared in the file is made once, however often it is reached.
        if id(value) not in self._done:
            self._done[id(value)] = self._made(value, depth + 1)
        return self._done[id(value)]

    def _made(self, value: Any, depth: int) -> Any:
        match value:
            case Record(name="numpy.dtype"):
                return dtype_of(value)
            case Record():
                args = tuple(self.build(arg, depth) for arg in value.args)
                state = self.build(value.state, depth)
                return self._makers[value.name](value.name, args, state)
            case Name(name=name) if name in self._functions:
                return _class(name)
            case Name():
                return value  # stays a word: nothing may be made of a type but by a record
            case dict():
                return {key: self.build(item, depth) for key, item in value.items()}
            case tuple():
                return tuple(self.build(item, depth) for item in value)
            case _:
                return [self.build(item, depth) for item in value]


def _class(name: str) -> Any:
    module, _, own = name.rpartition(".")
    return getattr(importlib.import_module(module), own)


def _plain(name: str, args: tuple[Any, ...], state: Any) -> Any:
    """An object whose state is its attributes, as scikit-learn's estimators are."""
    if args or not isinstance(state, dict):
        raise ValueError(f"{name} has a state of another kind")
    made = object.__new__(_class(name))
    made.__dict__.update({key: item for key, item in state.items() if key != "_sklearn_version"})
    return made


def _facts(name: str, args: tuple[Any, ...], state: Any) -> Any:
    """A frozen slotted dataclass of this house: its state is the list of its fields, each of its declared type."""
    kind = _class(name)
    hints = _hints(kind)
    if args or not isinstance(state, list) or not _fit(state, list(hints.values())):
        raise ValueError(f"{name} has not the fields that this code knows")
    made = object.__new__(kind)
    for field, item in zip(hints, state, strict=True):
        object.__setattr__(made, field, item)
    return made


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type, all the way down."""
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
        # Each item once, however often the file repeats it.
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
    """An array of objects; only text is allowed in it (column names are such arrays)."""
    _version, shape, _dtype, _order, items = state
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError("an array holds objects that are no text")
    return np.array(items, dtype=object).reshape(shape)


def _encoded(_name: str, args: tuple[Any, ...], _state: Any) -> bytes:
    """How protocol 2 writes bytes."""
    text, encoding = args
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes are written in another encoding")
    return text.encode("latin1")


def _fitted(kind: type) -> Maker:
    """What of an estimator's attributes a record of this kind has."""
    kept = [field.name for field in fields(kind)]

    def make(name: str, args: tuple[Any, ...], state: Any) -> Any:
        if args or not isinstance(state, dict):
            raise ValueError(f"{name} has a state of another kind")
        return kind(**{key: state[key] for key in kept if key in state})

    return make


def _tree(_name: str, args: tuple[Any, ...], state: Any) -> Tree:
    """A decision tree of two classes, every node of which is checked."""
    k, classes, outputs = args
    nodes, values, depth = state["nodes"], state["values"], state["max_depth"]
    if not (
        type(k) is int and 0 < k <= _MOST_FEATURES and outputs == 1 and np.array_equal(classes, [2])
    ):
        raise ValueError("a tree does not tell two classes apart")
    n = len(nodes)
    if any(nodes.dtype[field] != kind for field, kind in _NODE.items()):
        raise ValueError("a tree's nodes are not in the form of this scikit-learn")
    if nodes.shape != (n,) or values.shape != (n, 1, 2) or values.dtype != np.float64:
        raise ValueError("a tree's nodes are not in the form of this scikit-learn")
    if not (n > 0 and type(depth) is int and 0 <= depth < n and state["node_count"] == n):
        raise ValueError("a tree's depth or size is not that of its nodes")
    left, right, own = nodes["left_child"], nodes["right_child"], np.arange(n)
    leaf = left == -1
    # Children come after their parent: so every walk ends, and ends inside.
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
    """The tree as scikit-learn's own, in the form of the installed one: its code in C believes what it is told."""
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


# What is read of a node.
_NODE = {
    "left_child": np.int64,
    "right_child": np.int64,
    "feature": np.int64,
    "threshold": np.float64,
}

_FOREST = "sklearn.ensemble._forest.RandomForestClassifier"
_GROWN = "sklearn.tree._classes.DecisionTreeClassifier"
_SCALER = "sklearn.preprocessing._data.StandardScaler"
_SELECTOR = "sklearn.feature_selection._univariate_selection.SelectKBest"
_TREE = "sklearn.tree._tree.Tree"

_SERVED: dict[str, Maker] = {
    _FOREST: _fitted(RandomForest),
    _GROWN: _fitted(DecisionTree),
    _SCALER: _fitted(Scaler),
    _SELECTOR: _fitted(Selector),
    _TREE: _tree,
}
_SCIKIT: dict[str, Maker] = {
    **dict.fromkeys((_FOREST, _GROWN, _SCALER, _SELECTOR), _plain),
    _TREE: _scikit_tree,
}
_OWN: dict[str, Maker] = {
    "features.calendar.Calendar": _facts,
    "features.distribution.Distribution": _facts,
    "features.fitted.FittedFeatures": _facts,
    "features.spec.CalendarSettings": _facts,
    "features.spec.FeatureSpec": _facts,
    "features.spec.Specification": _facts,
    "models.train.calibrate.Calibrator": _facts,
    "models.serve.forest.Forest": _facts,
    "models.serve.venn_abers.VennAbers": _facts,
    "numpy._core.multiarray._reconstruct": _texts,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.multiarray._reconstruct": _texts,  # as numpy 1 named them
    "numpy.core.multiarray.scalar": _scalar,
    "_codecs.encode": _encoded,
}
# Named as values; nothing calls them while a model loads or serves.
_FUNCTIONS = {"sklearn.feature_selection._univariate_selection.f_classif"}
_ALLOWED = {*_OWN, *_SERVED, *_FUNCTIONS, "numpy.dtype", "numpy.ndarray"}
