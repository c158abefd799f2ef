"""Functions compiled by numba, of the extra `fast`; without it the import raises ImportError."""

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba import njit

from leadstream.log import announce_compilation

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
        return cast(Kernel, _tolerant(njit(cache=True, nogil=True)(function)))
    except RuntimeError:
        # No folder can hold the compiled code: each start compiles it again.
        return cast(Kernel, njit(nogil=True)(function))


def _tolerant(dispatcher: Any) -> Any:
    """Return the dispatcher with a cache that may fail, as on a full disk.

    Compiled code that cannot be read is compiled, and what cannot be written is not kept.
    """
    cache = getattr(dispatcher, "_cache", None)
    for name, guard in (("load_overload", _loaded), ("save_overload", _none_on_failure)):
        if (call := getattr(cache, name, None)) is not None:
            setattr(cache, name, partial(guard, call))
    return dispatcher


def _loaded(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the cache has; if that is nothing, say that numba compiles now."""
    found = _none_on_failure(call, *arguments)
    if found is None:
        announce_compilation()
    return found


def _none_on_failure(call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except Exception:  # noqa: BLE001  # a cut file fails in any way, and nothing depends on it
        return None
