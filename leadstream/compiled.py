"""Functions as machine code, by numba (the extra `fast`); to import this without it is an ImportError."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(function: Kernel) -> Kernel:
    """The same function, compiled when it is first called for its types of arguments, and kept on disk from then on."""
    try:
        return cast(Kernel, njit(cache=True, nogil=True)(function))
    except (
        RuntimeError
    ):  # there is no folder that the machine code could be kept in: compiled anew at each start
        return cast(Kernel, njit(nogil=True)(function))
