"""The few operations that the registry needs of a folder or an fsspec URL, each visible whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import fsspec
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.implementations.local import LocalFileSystem

from leadstream.errors import SettingsError, Transient
from leadstream.settings import masked_url

# The most that a manifest, a signature or an alias may take.
DOCUMENT = 4 * 2**20
SECONDS = 10.0
# The consumer looks between batches: a store that is down may hold it up by seconds, not by minutes.
_S3: dict[str, Any] = {
    "skip_instance_cache": True,  # the next store may be told another endpoint
    "config_kwargs": {
        "connect_timeout": 3,
        "read_timeout": 5,
        "retries": {"mode": "standard", "total_max_attempts": 2},
    },
}
# Answers to a conditional put where the object is there, or another is being put this very moment.
_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict")


class Store:
    """Small objects under a root, named by paths with `/`.

    Raises SettingsError for a URL that nothing here can read, and Transient("model store") where it does not answer.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        s3 = url.partition("://")[0] in ("s3", "s3a")
        try:
            # Another process moves the aliases: a cached listing would hide that.
            self._fs, root = fsspec.core.url_to_fs(
                url, use_listings_cache=False, **(_S3 if s3 else {})
            )
        except (ImportError, ValueError) as error:
            mend = "; pip install 'leadstream[s3]'" if s3 else ""
            raise SettingsError(f"MODEL_STORE={masked_url(url)}: {error}{mend}") from error
        self._failures: tuple[type[Exception], ...] = (OSError,)
        if s3:
            from aiohttp import ClientError  # noqa: PLC0415  # this and the next come with s3fs
            from botocore.exceptions import BotoCoreError  # noqa: PLC0415

            self._fs.retries = 1  # botocore tries again
            self._failures = (OSError, BotoCoreError, ClientError)
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    def read(self, path: str, at_most: int = DOCUMENT) -> bytes | None:
        """The object's bytes, or None where there is none; of a larger object only the first `at_most` + 1."""
        with self._answering():
            try:
                return bytes(
                    self._call("cat_file", at_most, self._at(path), start=0, end=at_most + 1)
                )
            except OSError as error:
                if _code(error) == "InvalidRange":  # there is no first byte
                    return b""
                if not _absent(error):
                    raise
                return None

    def create(self, path: str, data: bytes) -> bool:
        """Write the object unless one exists; False if one does. Of several callers one succeeds.

        On a folder that holds by O_EXCL, elsewhere as far as the store's own conditional put goes.
        """
        with self._answering():
            try:
                if self._local:
                    os.makedirs(os.path.dirname(self._at(path)), exist_ok=True)
                    with open(self._at(path), "xb") as file:
                        _write(file.fileno(), data)
                else:
                    self._call("pipe_file", len(data), self._at(path), data, mode="create")
            except OSError as error:
                if isinstance(error, FileExistsError) or _code(error) in _TAKEN:
                    return False
                raise
        return True

    def replace(self, path: str, data: bytes) -> None:
        """Write the object; a reader sees the old bytes or the new ones, never a part."""
        with self._answering():
            target = self._at(path)
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
            except OSError:
                if os.path.exists(temporary):
                    os.unlink(temporary)
                raise

    def remove(self, path: str) -> None:
        """Remove the object, if there is one."""
        with self._answering():
            try:
                self._call("rm_file", 0, self._at(path))
            except OSError as error:
                if not _absent(error):
                    raise

    def names(self, folder: str) -> list[str]:
        """The names directly under a folder, sorted; empty if there is no such folder."""
        with self._answering():
            try:
                found = self._call("ls", DOCUMENT, self._at(folder), detail=False)
            except OSError as error:
                if not _absent(error):
                    raise
                return []
        return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)

    def _call(self, method: str, size: int, *args: Any, **options: Any) -> Any:
        """What a method of the file system returns; a driver that can be stopped has SECONDS, and 1 more for a MiB."""
        if not isinstance(self._fs, AsyncFileSystem):
            return getattr(self._fs, method)(*args, **options)
        # An S3 client that waits for leave to send a body (100-continue) does so without a limit of its own.
        seconds = SECONDS + size / 2**20
        return sync(
            self._fs.loop, getattr(self._fs, f"_{method}"), *args, timeout=seconds, **options
        )

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            why = " ".join(str(error).split()) or "not in time"
            raise Transient(
                "model store", f"{masked_url(self.url)} does not answer ({why})"
            ) from error


def _absent(error: OSError) -> bool:
    """Whether an object or a folder is not there; a bucket that is not there is no empty store."""
    return isinstance(error, FileNotFoundError) and _code(error) != "NoSuchBucket"


def _code(error: OSError) -> str:
    """The code of the S3 answer that led to an error, empty for any other."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)
