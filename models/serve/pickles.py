"""A joblib file read as data: values, arrays, and descriptions of objects. No code of it runs.

Unpickling does what the file says, so a list of allowed names before `joblib.load` is not enough:

- Raw array bytes lie between the opcodes, and two readers can disagree on where they end.
- A file can tell an allowed class to change itself.
- An allowed type in C trusts its arguments with its memory.

So there is one reader, for checking and for loading. It knows the opcodes that picklers write for
data, with bounds on size, count and depth. Where unpickling would make an object it leaves a
`PickledObject`. `models.serve.allowed` builds objects from those.
"""

import io
import math
import pickletools
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadstream.errors import error_text
from models.serve.refused import Refused

MAX_PACKED = 64 * 2**20
MAX_UNPACKED = 256 * 2**20
MAX_OPCODES = 1_000_000
_MAX_FIELDS = 64

_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINBYTES", "BINBYTES"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES8"),
}
_WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
_ARRAY = "numpy.ndarray"
_DTYPE = re.compile(r"[biuf][1248]|U[1-9]\d{0,3}|O8")


@dataclass(frozen=True, slots=True, eq=False)
class PickledName:
    """A type or function that the file names, as `module.name`; never looked up here."""

    name: str


@dataclass(slots=True, eq=False)
class PickledObject:
    """An object that unpickling would make: call `name` with `args`, then set its `state`."""

    name: str
    args: tuple[Any, ...]
    state: Any = None


def read(payload: bytes) -> tuple[Any, list[str]]:
    """Return the content of a joblib file as data, and the sorted names that loading would look up.

    Raises Refused if the file is too large, ends in the wrong place or holds more than data.
    """
    reader = _PickleReader(_unpacked(payload))
    try:
        value = reader.read()
        if reader.stream.read(1):
            raise Refused("its artifact goes on after its end")
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise Refused(f"its artifact cannot be read ({type(error).__name__}: {error})") from error
    finally:
        reader.close()
    return value, sorted(reader.names - {_WRAPPER})


def dtype_of(record: Any) -> np.dtype[Any]:
    """Return the numpy type that a pickled dtype describes: numbers, text, objects or a structure.

    Raises ValueError, TypeError, LookupError or AttributeError for any other.
    """
    if not isinstance(record, PickledObject) or record.name != "numpy.dtype":
        raise ValueError("an array has no type")
    text, (_, order, _, names, fields, size, *_) = record.args[0], record.state
    if names is None:
        return _plain_dtype(text, order)
    if len(names) > _MAX_FIELDS:
        raise ValueError("an array has too many fields")
    of = [fields[name][0] for name in names]
    formats = [_plain_dtype(inner.args[0], inner.state[1]) for inner in of]
    offsets = [fields[name][1] for name in names]
    structure: np.dtype[Any] = np.dtype(
        {"names": [*names], "formats": formats, "offsets": offsets, "itemsize": size}
    )
    if structure.hasobject:
        raise ValueError("an array has objects in a field")
    return structure


def _plain_dtype(text: str, order: str) -> np.dtype[Any]:
    if not _DTYPE.fullmatch(text) or order not in ("<", "|", "="):
        raise ValueError(f"an array is of the type {order}{text}")
    return np.dtype(order + text)


def _unpacked(payload: bytes) -> bytes:
    if len(payload) > MAX_PACKED:
        raise Refused(f"its artifact has more than {MAX_PACKED:,} bytes")
    if payload.startswith(b"\x80"):
        return payload
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS + 32)  # zlib or gzip
    try:
        data = inflate.decompress(payload, MAX_UNPACKED + 1)
    except zlib.error as error:
        raise Refused(f"its artifact is neither a pickle nor zlib ({error_text(error)})") from error
    if len(data) > MAX_UNPACKED:
        raise Refused(f"its artifact unpacks to more than {MAX_UNPACKED:,} bytes")
    if not inflate.eof or inflate.unused_data:
        raise Refused(
            "its artifact goes on after its end" if inflate.eof else "its artifact is cut off"
        )
    return data


class _PickleReader:
    """The stack machine of pickle protocols 2 to 5, reduced to the opcodes of data."""

    def __init__(self, data: bytes) -> None:
        self.stream = io.BytesIO(data)
        self.names: set[str] = set()
        self._size = len(data)
        self._opcodes = 0
        self._nested = False
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._steps: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(("PROTO", "FRAME"), lambda _: None),
            **dict.fromkeys(_LITERALS, self._push),
            **{code: partial(self._constant, value) for code, value in _CONSTANTS.items()},
            **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda arg: self._push(self._memo[arg])),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._remember),
            "MEMOIZE": lambda _: self._remember(len(self._memo)),
            "MARK": self._mark,
            "TUPLE": lambda _: self._push(tuple(self._since_mark())),
            **{f"TUPLE{n}": partial(self._tuple, n) for n in (1, 2, 3)},
            "EMPTY_LIST": lambda _: self._push([]),
            "APPEND": lambda _: self._append(self._pop(1)),
            "APPENDS": lambda _: self._append(self._since_mark()),
            "EMPTY_DICT": lambda _: self._push({}),
            "SETITEM": lambda _: self._set(self._pop(2)),
            "SETITEMS": lambda _: self._set(self._since_mark()),
            "GLOBAL": lambda arg: self._name(arg.split(" ", 1)),
            "STACK_GLOBAL": lambda _: self._name(self._pop(2)),
            **dict.fromkeys(("REDUCE", "NEWOBJ"), self._record),
            "BUILD": self._build,
        }

    def read(self) -> Any:
        """Return the value of the pickle that starts here in the stream."""
        for op, arg, _ in pickletools.genops(self.stream):
            self._opcodes += 1
            if self._opcodes > MAX_OPCODES:
                raise Refused(f"its artifact has more than {MAX_OPCODES:,} steps")
            if op.name == "STOP":
                return self._pop(1)[0]
            if op.name not in self._steps:
                raise Refused(f"its artifact has the step {op.name}, which no model needs")
            self._steps[op.name](arg)
        raise ValueError("it does not end")

    def close(self) -> None:
        """Drop the references between reader and steps, so that the file is freed at once."""
        self._steps.clear()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _constant(self, value: Any, _arg: Any) -> None:
        self._push(value)

    def _tuple(self, count: int, _arg: Any) -> None:
        self._push(tuple(self._pop(count)))

    def _remember(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("it takes more than there is")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _mark(self, _arg: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _append(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise ValueError("it appends to what is no list")
        self._stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        keys = items[::2]
        # Only text: other keys can be chosen to make insertion quadratic.
        if type(self._stack[-1]) is not dict or not all(isinstance(key, str) for key in keys):
            raise ValueError("it sets what is no text in what is no dictionary")
        self._stack[-1].update(zip(keys, items[1::2], strict=True))

    def _name(self, parts: list[Any]) -> None:
        module, name = parts
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a name is no text")  # noqa: TRY004  # an error of the file
        self.names.add(f"{module}.{name}")
        self._push(PickledName(f"{module}.{name}"))

    def _record(self, _arg: Any) -> None:
        called, args = self._pop(2)
        if not isinstance(called, PickledName) or type(args) is not tuple:
            raise ValueError("it calls what is no name")
        self._push(PickledObject(called.name, args))

    def _build(self, _arg: Any) -> None:
        record, state = self._pop(2)
        # A state on a type would change that type for the whole process.
        if not isinstance(record, PickledObject) or record.state is not None:
            raise ValueError("it gives a state to what takes none")
        if record.name == _WRAPPER and not self._nested:
            self._push(self._array(state))
        else:
            record.state = state
            self._push(record)

    def _array(self, state: dict[str, Any]) -> "NDArray[Any] | PickledObject":
        """Return the array that follows in the stream, or a description if it holds objects."""
        dtype, shape = dtype_of(state["dtype"]), state["shape"]
        if dtype.hasobject:
            return self._array_of_objects()
        if not isinstance(state["subclass"], PickledName) or state["subclass"].name != _ARRAY:
            raise ValueError("an array is of a class of its own")
        if (
            type(shape) is not tuple
            or len(shape) > 8
            or any(type(n) is not int or n < 0 for n in shape)
        ):
            raise ValueError("an array has no shape")
        if state.get("numpy_array_alignment_bytes") is not None:
            self.stream.read(self.stream.read(1)[0])
        count = math.prod(shape)
        # Checked before numpy allocates.
        if count * dtype.itemsize > self._size - self.stream.tell():
            raise ValueError("an array is larger than the file")
        # numpy would release Python's lock and take it again for each of hundreds of arrays.
        # Other threads get the lock only after a full switch interval, so Python copies here.
        flat = np.frombuffer(bytearray(self.stream.read(count * dtype.itemsize)), dtype, count)
        return flat.reshape(shape, order="F" if state["order"] == "F" else "C")

    def _array_of_objects(self) -> PickledObject:
        """Return the array of objects that joblib writes as a pickle of its own within the file."""
        outer = self._stack, self._marks, self._memo
        self._stack, self._marks, self._memo, self._nested = [], [], {}, True
        record = self.read()
        (self._stack, self._marks, self._memo), self._nested = outer, False
        if not isinstance(record, PickledObject):
            raise ValueError("an array of objects is no array")  # noqa: TRY004  # an error of the file
        return record
