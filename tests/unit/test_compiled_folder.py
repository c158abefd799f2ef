"""The folder of compiled code, which numba unpickles: nobody else may write it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

from leadstream.compiled import own_cache

ROOT = Path(__file__).parents[2]
OWN = f"user-{os.geteuid()}"


def test_a_cache_folder_that_services_share_has_a_folder_for_each_account(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert own_cache(str(tmp_path)) == str(tmp_path / OWN)
    assert (tmp_path / OWN).stat().st_mode & 0o777 == 0o700
    assert own_cache(str(tmp_path)) == str(tmp_path / OWN)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_write_is_not_read(tmp_path: Path, mode: int) -> None:
    (tmp_path / OWN).mkdir()
    (tmp_path / OWN).chmod(mode)
    assert own_cache(str(tmp_path)) == ""


def test_a_link_or_a_file_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir(mode=0o700)
    (tmp_path / OWN).symlink_to(tmp_path / "else")
    assert own_cache(str(tmp_path)) == ""
    (tmp_path / OWN).unlink()
    (tmp_path / OWN).write_text("a file")
    assert own_cache(str(tmp_path)) == ""


@pytest.mark.slow
def test_numba_keeps_its_files_in_the_folder_of_the_account(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", "import schemas.compiled"],
        check=True,
        cwd=ROOT,
        env=dict(os.environ) | {"NUMBA_CACHE_DIR": str(tmp_path)},
    )
    assert [path.name for path in tmp_path.iterdir()] == [OWN]
