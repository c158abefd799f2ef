"""The built site has every page, no broken link, and fetches nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from schemas import schema_files
from tests.docs.test_reference import ROOT, verbs

pytest.importorskip("material", reason="the extra docs is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(folder),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


def test_every_page_of_the_docs_is_on_the_site(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        place = page.relative_to(ROOT / "docs").with_suffix("")
        built = site / (place.parent if place.name == "index" else place) / "index.html"
        assert built.exists(), place


def test_what_is_made_of_the_code_is_there(site: Path) -> None:
    helps = (site / "reference" / "commands" / "index.html").read_text()
    assert all(f"leadstream {words}" in helps for words in verbs())
    schemas = (site / "reference" / "schemas" / "index.html").read_text()
    for name in schema_files.FILES:
        for field in schema_files.current_schema(name)["fields"]:
            assert f"<code>{field['name']}</code>" in schemas
    assert "CRC-64" in (site / "how-to" / "subscribers" / "index.html").read_text()
    assert (site / "source" / "schemas" / "lead_prediction.avsc" / "index.html").exists()


def test_a_reader_without_the_internet_misses_nothing(site: Path) -> None:
    fetched = re.compile(r"<(?:link|script|img)[^>]+(?:href|src)=\"?(https?:)?//", re.IGNORECASE)
    for page in site.rglob("*.html"):
        assert not fetched.search(page.read_text()), page
    for style in site.rglob("*.css"):
        assert "url(http" not in style.read_text(), style
