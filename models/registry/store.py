"""The storage operations of the registry, on a folder or an fsspec URL.

Each write is visible entirely or not at all.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.implementations.local import LocalFileSystem

from leadstream.addresses import masked_url, without_secrets
from leadstream.errors import SettingsError, Transient, error_text
from models.serve.refused import Refused

# The maximum size of a manifest, a signature or an alias.
DOCUMENT = 4 * 2**20
SECONDS = 10.0
# A store that is down may delay the consumer by seconds, not by minutes.
_S3: dict[str, Any] = {
    "skip_instance_cache": True,  # the next store may have another endpoint
    "config_kwargs": {
        "connect_timeout": 3,
        "read_timeout": 5,
        "retries": {"mode": "standard", "total_max_attempts": 2},
    },
}
# Responses to a conditional put if the object exists, or another put is running.
_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict")


class Store:
    """Small objects under a root, named by paths with `/`.

    Raises SettingsError for a URL that no driver can read, and Transient("model store") if the
    store does not answer.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        s3 = url.partition("://")[0] in ("s3", "s3a")
        try:
            # Another process moves the aliases; a cached listing would hide that.
            self._fs, root = fsspec.core.url_to_fs(
                url, use_listings_cache=False, **(_S3 if s3 else {})
            )
        except (ImportError, ValueError) as error:
            hint = "; pip install 'leadstream[s3]'" if s3 else ""
            raise SettingsError(
                f"MODEL_STORE={masked_url(url)}: {without_secrets(error_text(error), url)}{hint}"
            ) from None
        self._failures: tuple[type[Exception], ...] = (OSError,)
        if s3:
            from aiohttp import ClientError  # noqa: PLC0415  # installed with s3fs
            from botocore.exceptions import BotoCoreError  # noqa: PLC0415

            self._fs.retries = 1  # botocore retries
            self._failures = (OSError, BotoCoreError, ClientError)
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)
        if self._local and (Path(self._root) / "__init__.py").exists():
            raise SettingsError(
                f"MODEL_STORE={url}: this folder holds Python code, as the package models of "
                "Leadstream does: name another one, for example .leadstream/models"
            )

    def read(self, path: str, max_bytes: int = DOCUMENT) -> bytes | None:
        """Return the object's bytes, or None if there is no object.

        Of an object larger than `max_bytes`, returns the first `max_bytes` + 1 bytes. Raises
        Refused if a folder, a pipe or a device is in the place of the object.
        """
        with self._answering():
            try:
                if self._local:
                    return self._read_file(path, max_bytes)
                return bytes(
                    self._call("cat_file", max_bytes, self._path(path), start=0, end=max_bytes + 1)
                )
            except OSError as error:
                if _code(error) == "InvalidRange":  # the object is empty
                    return b""
                if not _absent(error):
                    raise
                return None

    def size(self, path: str) -> int | None:
        """Return the size of an object in bytes, or None if there is no object."""
        with self._answering():
            try:
                return int(self._call("info", DOCUMENT, self._path(path))["size"])
            except OSError as error:
                if not _absent(error):
                    raise
                return None

    def _read_file(self, path: str, max_bytes: int) -> bytes:
        # Without waiting, because opening a pipe waits for its writer.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(self._path(path), flags)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise self._irregular(path)
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(max_bytes + 1)
        finally:
            os.close(descriptor)

    def _irregular(self, path: str) -> Refused:
        return Refused(f"{path} in {masked_url(self.url)} is no regular file: remove it")

    def create(self, path: str, data: bytes) -> bool:
        """Write the object and return True, or return False if it exists.

        Of several callers one succeeds. On a folder O_EXCL guarantees that; elsewhere the store's
        own conditional put does.
        """
        with self._answering():
            try:
                if self._local:
                    os.makedirs(os.path.dirname(self._path(path)), exist_ok=True)
                    with open(self._path(path), "xb") as file:
                        _write(file.fileno(), data)
                else:
                    self._call("pipe_file", len(data), self._path(path), data, mode="create")
            except OSError as error:
                if isinstance(error, FileExistsError) or _code(error) in _TAKEN:
                    return False
                raise
        return True

    def replace(self, path: str, data: bytes) -> None:
        """Write the object; a reader sees the old bytes or the new ones, never a part."""
        with self._answering():
            target = self._path(path)
            if not self._local:
                self._call("pipe_file", len(data), target, data)
                return
            folder, name = os.path.split(target)
            os.makedirs(folder, exist_ok=True)
            temporary = os.path.join(folder, f".{name}.{uuid4().hex}")
            try:
                with open(temporary, "xb") as file:
                    _write(file.fileno(), data)
                os.replace(temporary, target)
            except OSError as error:
                if os.path.exists(temporary):
                    os.unlink(temporary)
                if isinstance(error, IsADirectoryError):
                    raise self._irregular(path) from None
                raise

    def remove(self, path: str) -> None:
        """Remove the object, if it exists."""
        with self._answering():
            try:
                self._call("rm_file", 0, self._path(path))
            except OSError as error:
                if not _absent(error):
                    raise

    def names(self, folder: str) -> list[str]:
        """Return the names directly under a folder, sorted; empty if there is no such folder."""
        with self._answering():
            try:
                found = self._call("ls", DOCUMENT, self._path(folder), detail=False)
            except OSError as error:
                if not _absent(error):
                    raise
                return []
        return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)

    def _call(self, method: str, size: int, *args: Any, **options: Any) -> Any:
        """Call a method of the file system.

        A driver that can be stopped has SECONDS, plus 1 for each MiB.
        """
        if not isinstance(self._fs, AsyncFileSystem):
            return getattr(self._fs, method)(*args, **options)
        # An S3 client waits without a limit for 100-continue before it sends a body.
        seconds = SECONDS + size / 2**20
        return sync(
            self._fs.loop, getattr(self._fs, f"_{method}"), *args, timeout=seconds, **options
        )

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            text = "not in time" if isinstance(error, TimeoutError) else error_text(error)
            why = without_secrets(" ".join(text.split()), self.url)
            raise Transient(
                "model store", f"{masked_url(self.url)} does not answer ({why})"
            ) from None


def _absent(error: OSError) -> bool:
    """Return whether an object or folder is missing; a missing bucket is an error."""
    return isinstance(error, FileNotFoundError) and _code(error) != "NoSuchBucket"


def _code(error: OSError) -> str:
    """Return the code of the S3 response behind an error, or an empty string."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)
