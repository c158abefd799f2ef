"""The few operations that the registry needs of a folder or an fsspec URL, each visible whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

from leadstream.errors import SettingsError, Transient

# The most that a manifest, a signature or an alias may take.
DOCUMENT = 4 * 2**20


class Store:
    """Small objects under a root, named by paths with `/`.

    Raises SettingsError for a URL that nothing here can read, and Transient("model store") where it does not answer.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            # Another process moves the aliases: a cached listing would hide that.
            self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise SettingsError(f"MODEL_STORE={url}: {error}") from error
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    def read(self, path: str, at_most: int = DOCUMENT) -> bytes | None:
        """The object's bytes, or None where there is none; of a larger object only the first `at_most` + 1."""
        with self._answering():
            try:
                return bytes(self._fs.cat_file(self._at(path), start=0, end=at_most + 1))
            except FileNotFoundError:
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
                    self._fs.pipe_file(self._at(path), data, mode="create")
            except FileExistsError:
                return False
        return True

    def replace(self, path: str, data: bytes) -> None:
        """Write the object; a reader sees the old bytes or the new ones, never a part."""
        with self._answering():
            target = self._at(path)
            if not self._local:
                self._fs.pipe_file(target, data)
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
                self._fs.rm_file(self._at(path))
            except FileNotFoundError:
                return

    def names(self, folder: str) -> list[str]:
        """The names directly under a folder, sorted; empty if there is no such folder."""
        with self._answering():
            try:
                found = self._fs.ls(self._at(folder), detail=False)
            except FileNotFoundError:
                return []
        return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Transient("model store", f"{self.url} does not answer ({error})") from error


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)
