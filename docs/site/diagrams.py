"""Diagrams of the site: each Mermaid fence of a page becomes an SVG file.

`python docs/site/diagrams.py` draws new diagrams with mermaid-cli and deletes unused ones. It needs
`npx` and Chromium. A file is named by the hash of its text: a page and its picture cannot differ.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parents[1]
FOLDER = PurePosixPath("images/diagrams")
PROGRAM = "@mermaid-js/mermaid-cli@11"
# Text as SVG text and not as HTML: every viewer of images shows it.
THEME = {"theme": "neutral", "htmlLabels": False, "flowchart": {"htmlLabels": False}}
_FENCE = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r"^\s*accTitle: *(.+)$", re.MULTILINE)
_WIDTH = re.compile(r'viewBox="\S+ \S+ (\S+) ')
_log = logging.getLogger("mkdocs.hooks.diagrams")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace each Mermaid fence with its picture; warn where it has not been drawn."""

    def picture(fence: re.Match[str]) -> str:
        name = file_name(fence[1])
        if not (DOCS / FOLDER / name).exists():
            _log.warning(
                "%s: a diagram is not drawn: run python docs/site/diagrams.py", page.file.src_uri
            )
            return fence[0]
        title = _TITLE.search(fence[1])
        here = PurePosixPath(page.file.src_uri).parent
        link = f"![{title[1] if title else 'Diagram'}]({os.path.relpath(FOLDER / name, here)})"
        width = _WIDTH.search((DOCS / FOLDER / name).read_text("utf-8"))
        return f"{link}{{ width={float(width[1]):.0f} }}" if width else link

    return _FENCE.sub(picture, markdown)


def file_name(text: str) -> str:
    """Return the name of the SVG file of a diagram."""
    return f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.svg"


def draw_all() -> None:
    """Draw the diagrams that have no file yet, and delete the files that no page needs."""
    texts = {
        file_name(text): text
        for page in DOCS.rglob("*.md")
        for text in _FENCE.findall(page.read_text("utf-8"))
    }
    folder = DOCS / FOLDER
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        if old.name not in texts:
            old.unlink()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    for name, text in texts.items():
        if (folder / name).exists():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch)
            (place / "in.mmd").write_text(text, "utf-8")
            (place / "theme.json").write_text(json.dumps(THEME))
            (place / "browser.json").write_text(
                json.dumps({"executablePath": chromium, "args": ["--no-sandbox"]})
            )
            command = ["npx", "--yes", PROGRAM, "-b", "white", "-i", "in.mmd", "-o", name]
            command += ["-c", "theme.json", "-p", "browser.json"]
            environment = {**os.environ, "PUPPETEER_SKIP_DOWNLOAD": "1"}
            subprocess.run(command, cwd=place, check=True, env=environment)
            shutil.copy(place / name, folder / name)


if __name__ == "__main__":
    draw_all()
