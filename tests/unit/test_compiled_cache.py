"""The cache of compiled code: a disk that is full or a file that was cut ends no process."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from leadstream.compiled import compiled  # noqa: E402

pytestmark = pytest.mark.slow

_SOURCE = """
def double(values):
    return values * 2.0
"""


def load(folder: Path) -> dict[str, Any]:
    """The function from a file of its own, as numba caches it next to that."""
    file = folder / "kernels.py"
    file.write_text(_SOURCE)
    names: dict[str, Any] = {}
    exec(compile(_SOURCE, str(file), "exec"), names)
    return names


def test_a_full_disk_must_not_end_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from numba.core.caching import IndexDataCacheFile

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "_open_for_write", full)
    double = compiled(load(tmp_path)["double"])
    assert double(np.ones(3)).tolist() == [2.0] * 3


def test_the_first_start_must_not_be_silent_while_it_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[str] = []
    monkeypatch.setattr("leadstream.compiled.announce_compilation", lambda: announced.append(""))
    compiled(load(tmp_path)["double"])(np.ones(3))
    assert len(announced) == 1
    compiled(load(tmp_path)["double"])(np.ones(3))
    assert len(announced) == 1, "it was compiled already, and read from disk"


@pytest.mark.parametrize("kept", [0, 10])
def test_a_file_that_was_cut_by_a_full_disk_must_not_end_the_next_start(
    tmp_path: Path, kept: int
) -> None:
    compiled(load(tmp_path)["double"])(np.ones(3))
    files = [*tmp_path.rglob("*.nbi"), *tmp_path.rglob("*.nbc")]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:kept])
    double = compiled(load(tmp_path)["double"])
    assert double(np.ones(3)).tolist() == [2.0] * 3
