"""The `.env` file: read only if nobody but this account, or root, can have written it."""

import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from leadstream.errors import SettingsError

_MAX_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class EnvFile:
    """The variables of a file, by name; `path` is absolute."""

    path: str
    values: dict[str, str]


def read_env_file(path: Path) -> EnvFile | None:
    """Return the variables of the file, or None if there is none (a folder is none).

    Raises SettingsError if the file belongs to another account, if others may write it, or if it
    is no text.
    """
    try:
        # Without waiting, because opening a pipe waits for its writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror}); make it readable") from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            return None
        _check(path, status)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(_MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    return EnvFile(str(Path(path).absolute()), _parsed(path, content))


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _refusal(path, "is no regular file; write a file")
    if hasattr(os, "geteuid") and status.st_uid not in (0, os.geteuid()):
        raise _refusal(path, "belongs to another account; make one of your own")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _refusal(path, "may be written by others; run `chmod go-w` on it")


def _parsed(path: Path, content: bytes) -> dict[str, str]:
    if len(content) > _MAX_BYTES:
        raise _refusal(path, "is larger than 1 MiB; keep settings only")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _refusal(path, "is not UTF-8; save it in this encoding") from None
    if "\0" in text:
        raise _refusal(path, "holds a NUL character; save it as UTF-8 text")
    found = dotenv_values(stream=io.StringIO(text))
    return {name: value for name, value in found.items() if value is not None}


def _refusal(path: Path, why: str) -> SettingsError:
    return SettingsError(f"the settings file {path} {why}; or move it away")
