"""Functions compiled by numba, of the extra `fast`; without it the import raises ImportError."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba import njit

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def own_cache(folder: str) -> str:
    """Return a folder of this account in a cache folder; an empty text if there can be none.

    numba unpickles what it finds there, so nobody else may write it.
    """
    own = Path(folder) / f"user-{os.geteuid()}"
    try:
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = own.lstat()
    except OSError:
        return ""
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return str(own) if is_own and not status.st_mode & 0o022 else ""


_CONFIG: Any = numba.config
if _CONFIG.CACHE_DIR:  # NUMBA_CACHE_DIR, which services may share
    _CONFIG.CACHE_DIR = own_cache(_CONFIG.CACHE_DIR)


def compiled(function: Kernel) -> Kernel:
    """Return the function compiled: at the first call for its argument types, then from disk."""
    try:
        return cast(Kernel, njit(cache=True, nogil=True)(function))
    except RuntimeError:
        # No folder can hold the compiled code: each start compiles it again.
        return cast(Kernel, njit(nogil=True)(function))
