"""Artifacts that mean harm, by name: each would run code, break the process or fill its memory if
it were trusted.

Every one is made here from scratch; `hostile(canary)` gives bytes that would create the file
`canary` if anything ran.
"""

import builtins
import functools
import io
import os
import pickle
import struct
import subprocess
import zlib
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.feature_selection import SelectKBest
from sklearn.preprocessing import StandardScaler
from sklearn.tree._tree import Tree

from models.serve import artifact
from tests.trained_models import trained


class Call:
    """Unpickles to the result of a call, given a state if there is one."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.parts


def dumped(value: Any) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(value, buffer, compress=("zlib", 1))
    return buffer.getvalue()


def changed(**parts: Any) -> bytes:
    """A good artifact with some parts replaced."""
    return artifact.dump({**trained().artifact, **parts})


def raw(*opcodes: bytes) -> bytes:
    return b"\x80\x04" + b"".join(opcodes) + b"."


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, qualified: str) -> bytes:
    return text(module) + text(qualified) + b"\x93"


def objects(item: Any) -> Any:
    array = np.empty(1, dtype=object)
    array[0] = item
    return array


def code(canary: Path) -> dict[str, bytes]:
    """Files that would run code."""
    touch, python = f"touch {canary}", f"open({str(canary)!r}, 'w')"
    scaler = StandardScaler()
    scaler.mean_ = Call(os.system, touch)
    wrapper = name("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81"
    return {
        "os.system": dumped(Call(os.system, touch)),
        "a bare pickle": pickle.dumps(Call(os.system, touch)),
        "subprocess": dumped({"model": Call(subprocess.check_output, touch.split())}),
        "eval": dumped(Call(builtins.eval, python)),
        "exec": dumped([Call(builtins.exec, python)]),
        "in an array of objects": changed(feature_names=objects(Call(os.system, touch))),
        "in an array in an array": changed(feature_names=objects(objects(Call(os.system, touch)))),
        "in an allowed type": changed(scaler=scaler),
        "beside a good model": changed(more=Call(os.system, touch)),
        "functools.partial": dumped(functools.partial(os.system, touch)),
        "getattr": dumped(Call(getattr, Call(__import__, "os"), "system")),
        "a call of a result": raw(
            name("operator", "attrgetter")
            + text("system")
            + b"\x85R"
            + name("builtins", "__import__"),
            text("os") + b"\x85R\x85R" + text(touch) + b"\x85R",
        ),
        "a dotted name": raw(name("joblib.numpy_pickle", "os.system") + text(touch) + b"\x85R"),
        "a dotted name of an allowed module": raw(name("models.venn_abers", "np.testing")),
        "copyreg": raw(
            name("copyreg", "_reconstructor") + name("os", "system") + text(touch) + b"N\x87R"
        ),
        "an extension": raw(b"\x82\x01" + text(touch) + b"\x85R"),
        "a persistent id": raw(text(touch) + b"Q"),
        "protocol 0": b"(S'" + touch.encode() + b"'\nios\nsystem\n.",
        "the opcode INST": raw(b"(S'" + touch.encode() + b"'\nios\nsystem\n"),
        "the opcode OBJ": raw(b"(cos\nsystem\n" + text(touch) + b"o"),
        "the opcode NEWOBJ_EX": raw(name("os", "system") + text(touch) + b"\x85}\x92"),
        "numpy that runs": raw(name("numpy.testing", "rundocs") + text(str(canary)) + b"\x85R"),
        "numpy that writes": raw(
            name("numpy", "memmap") + text(str(canary)) + text("u1") + text("w+") + b"\x87R"
        ),
        "joblib that loads": dumped(Call(joblib.load, str(canary))),
        "a wrapper with code for a type": raw(
            wrapper + b"}(" + text("dtype") + name("os", "system") + text(touch) + b"\x85Rub"
        ),
        "a wrapper within a frame": raw(
            b"\x95\xff\x00\x00\x00\x00\x00\x00\x00"
            + wrapper
            + b"}b"
            + name("os", "system")
            + text(touch)
            + b"\x85R"
        ),
        "a type that is changed": raw(
            name("models.venn_abers", "VennAbers")
            + b"N}("
            + text("interval")
            + name("os", "system")
            + b"u\x86b"
        ),
        "an allowed type that is changed": raw(
            name("models.venn_abers", "VennAbers") + b"N}(" + text("interval"),
            name("sklearn.feature_selection._univariate_selection", "f_classif") + b"u\x86b",
        ),
        "an allowed function that is called": raw(
            name("sklearn.feature_selection._univariate_selection", "f_classif") + b")R"
        ),
        "an allowed type that is called": raw(
            name("sklearn.preprocessing._data", "StandardScaler") + text(touch) + b"\x85R"
        ),
        "compress within compress": zlib.compress(
            zlib.compress(pickle.dumps(Call(os.system, touch)))
        ),
    }


def trees() -> dict[str, bytes]:
    """Trees that scikit-learn's C code would believe."""
    good = trained().artifact["model"].estimators_[0].tree_.__getstate__()
    nodes, values = good["nodes"], good["values"]

    def tree(features: Any = 20, classes: int = 2, outputs: Any = 1, **state: Any) -> bytes:
        return dumped(
            {"model": Call(Tree, features, np.array([classes]), outputs, state={**good, **state})}
        )

    def node(field: str, value: int) -> bytes:
        broken = nodes.copy()
        broken[field][0] = value
        return tree(nodes=broken)

    return {
        "a tree that ends in itself": node("left_child", 0),
        "a tree that leads out": node("right_child", 2**40),
        "a tree that leads back": node("left_child", -7),
        "a tree of a feature that is not there": node("feature", 2**40),
        "a tree of a feature below zero": node("feature", -3),
        "a tree that is endlessly deep": tree(max_depth=2**62),
        "a tree with more outputs than it has": tree(outputs=2**40),
        "a tree of a billion classes": tree(classes=2**40),
        "a tree of no features": tree(features=0),
        "a tree with fewer values": tree(values=values[:1]),
        "a tree with more nodes than it has": tree(node_count=2**40),
        "a tree of other nodes": tree(nodes=np.zeros(len(nodes))),
        "a tree without nodes": tree(nodes=nodes[:0], values=values[:0], node_count=0),
    }


def bombs() -> dict[str, bytes]:
    """Small files that would fill the memory or never end."""

    def array(shape: bytes, dtype: str = "u1") -> bytes:
        kind = name("numpy", "dtype") + text(dtype) + b"\x89\x88\x87R"
        kind += b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        return raw(
            name("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81}(",
            text("subclass")
            + name("numpy", "ndarray")
            + text("shape")
            + shape
            + text("order")
            + text("C"),
            text("dtype") + kind + text("allow_mmap") + b"\x89" + b"ub",
        )

    laughs = b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"e\x94" for i in range(60))
    keys = b"".join(
        b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(1, 2000)
    )
    return {
        "zeros": deflated(b"\0" * 2**20, 300),
        "a file too large": b"\x80" * (64 * 2**20 + 1),
        "many small": deflated(b"}" * 10_000, 150),
        "many marks": deflated(b"(" * 10_000, 150),
        "a long number": raw(b"\x8b\xff\xff\xff\x7f"),
        "a text longer than the file": raw(b"\x8d" + struct.pack("<Q", 2**50)),
        "a place far away": raw(b"Nr\xff\xff\xff\xff"),
        "a huge shape": array(b"\x8a\x06\xff\xff\xff\xff\xff\x7f\x85"),
        "a shape that overflows": array(
            b"\x8a\x08" + b"\xff" * 7 + b"\x7f" + b"\x8a\x08" + b"\xff" * 7 + b"\x7f\x86"
        ),
        "a shape below zero": array(b"J\xff\xff\xff\xff\x85"),
        "a shape of nothing": array(b"\x8a\x06\xff\xff\xff\xff\xff\x7f\x85", "V0"),
        "dates": array(b"K\x01\x85", "M8"),
        "nested": raw(b"]" * 100_000 + b"a" * 99_999),
        "nested tuples": raw(b")" + b"\x85" * 100_000),
        "nested dictionaries": raw(b"}" + (b"}" + text("a")) * 500 + b"N" + b"s" * 500),
        "itself": raw(b"]\x94h\x00a"),
        "a billion laughs": raw(b"]\x94" + laughs),
        "keys that collide": raw(b"}(" + keys + b"u"),
    }


def deflated(block: bytes, times: int) -> bytes:
    deflate = zlib.compressobj(1)
    return b"".join(
        [
            deflate.compress(b"\x80\x04"),
            *(deflate.compress(block) for _ in range(times)),
            deflate.flush(),
        ]
    )


def cut() -> dict[str, bytes]:
    """A good file that ends too early or too late, packed and not."""
    full = artifact.dump(trained().artifact)
    flat = zlib.decompress(full)

    # Two processes may pack the same model into files of different sizes, so no name states one.
    def shortened(data: bytes) -> dict[str, bytes]:
        begins = {f"first {n} bytes": data[:n] for n in (0, 1, 2, 3, 100)}
        ends = {f"all but {n} bytes": data[:-n] for n in (1, 100)}
        return {**begins, "first half": data[: len(data) // 2], **ends}

    return {
        **{f"packed, {part}": data for part, data in shortened(full).items()},
        **{f"plain, {part}": data for part, data in shortened(flat).items()},
        **{
            f"packed again, {part}": zlib.compress(data, 1)
            for part, data in shortened(flat).items()
        },
        "packed, and more": full + b"x",
        "plain, and more": flat + b"x",
        "twice": full + full,
    }


def laughs(levels: int) -> Any:
    """A small value that is huge once it is written out."""
    value: Any = "ha"
    for _ in range(levels):
        value = [value] * 10
    return value


def with_scores(selector: SelectKBest, scores: Any) -> SelectKBest:
    changed_ = copy(selector)
    changed_.scores_ = scores
    return changed_


def wrong() -> dict[str, bytes]:
    """Files of allowed types that are no model."""
    parts = trained().artifact
    features, scaler, selector = parts["features"], parts["scaler"], parts["feature_selector"]
    short = StandardScaler()
    short.mean_, short.scale_ = scaler.mean_[1:], scaler.scale_[1:]
    forest = parts["model"]
    funny = replace(
        features.specification, outputs=(*features.specification.outputs[:-1], laughs(15))
    )
    return {
        "a list": dumped([1, 2]),
        "a number": dumped(1),
        "an array": dumped(np.zeros(3)),
        "nothing in it": dumped({}),
        "names in another order": changed(feature_names=parts["feature_names"][::-1]),
        "another name": changed(feature_names=["income", *parts["feature_names"][1:]]),
        "parts exchanged": changed(scaler=selector, feature_selector=scaler),
        "a scaler of fewer features": changed(scaler=short),
        "no scaler": changed(scaler=None),
        "features for a calibrator": changed(calibrator=features),
        "a dictionary for features": changed(features={}),
        "a text for a threshold": changed(threshold="0.5"),
        "a list for a grade": changed(grades={"A": [0.1], "B": 0.1, "C": 0.1}),
        "one tree for a forest": changed(model=forest.estimators_[0]),
        "laughs for names": changed(feature_names=laughs(15)),
        "laughs for a threshold": changed(threshold=laughs(15)),
        "laughs for grades": changed(grades=dict.fromkeys("ABC", laughs(15))),
        "laughs for importance of scores": changed(
            feature_selector=with_scores(selector, laughs(15))
        ),
        "laughs in the specification": changed(features=replace(features, specification=funny)),
        "a type that no model needs": changed(more=io.BytesIO()),
    }
