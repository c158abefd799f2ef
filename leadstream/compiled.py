"""Functions compiled by numba, of the extra `fast`; without it the import raises ImportError."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(function: Kernel) -> Kernel:
    """Return the function compiled: at the first call for its argument types, then from disk."""
    try:
        return cast(Kernel, njit(cache=True, nogil=True)(function))
    except RuntimeError:
        # No folder can hold the compiled code: each start compiles it again.
        return cast(Kernel, njit(nogil=True)(function))
