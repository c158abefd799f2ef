"""Pages of the site that are made from the code: help, schemas, and the sources that pages link to.

MkDocs calls the functions on_...: they are its hooks.
"""

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from leadstream.cli.main import parser
from schemas import schema_files
from schemas.evolution import COMPATIBILITY

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# A link to a file, not to a place on the page or to another site.
_LINK = re.compile(r"\]\(([^)#:\s]+)\)")
_LANGUAGES = {".avsc": "json", ".mjs": "js"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code."""
    linked = {
        path
        for file in files.documentation_pages()
        for target in _LINK.findall(file.content_string)
        if (path := _outside(file.src_uri, target))
    }
    pages = {"reference/commands.md": commands(), "reference/schemas.md": schemas()}
    pages |= {
        _place(inner): source(inner) for path in sorted(linked) for inner in _with_inner(path)
    }
    for place, text in pages.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links out of docs/ to the copy of the file that they name."""
    here = page.file.src_uri

    def copied(found: re.Match[str]) -> str:
        path = _outside(here, found[1])
        if path is None:
            return found[0]
        return f"]({os.path.relpath(_place(path), PurePosixPath(here).parent)})"

    return _LINK.sub(copied, markdown)


def _outside(page: str, target: str) -> Path | None:
    """Return the file of the repository that a link of a page names, if it is not in docs/."""
    path = Path(os.path.normpath(DOCS / PurePosixPath(page).parent / target))
    inside = path.is_relative_to(DOCS) or not path.is_relative_to(ROOT)
    return None if inside or not path.exists() else path


def commands() -> str:
    """Return the page with the help of every verb."""
    os.environ["COLUMNS"] = "88"  # what argparse wraps to
    parts = [
        "# Each verb's help\n\nAfter this page you know every option of every verb: this is what "
        "`--help` prints. [The reference](index.md#verbs) has all verbs in one table."
    ]
    for words, verb in verbs("leadstream", parser()):
        parts.append(f"## {words}\n\n```text\n{verb.format_help().rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def verbs(words: str, at: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every verb that does something, with its words."""
    inner: Any = [
        action for action in at._actions if isinstance(action, argparse._SubParsersAction)
    ]
    for action in inner:
        for name, sub in action.choices.items():
            yield from verbs(f"{words} {name}", sub)
    if not inner:
        yield words, at


def schemas() -> str:
    """Return the page with the fields of every record."""
    parts = [
        "# Schemas\n\nAfter this page you know every field of every record, as `schemas/*.avsc` "
        "define them. Times are `timestamp-millis`, UTC. A field with a default may be left out. "
        "`leadstream schemas show` prints a schema and its fingerprint."
    ]
    for name in schema_files.FILES:
        record = schema_files.current_schema(name)
        parts.append(
            f"## {name}\n\n{record['doc']}\n\n"
            f"It evolves {COMPATIBILITY[name]}.\n\n{_fields(record)}"
        )
        parts += [
            f"### {inner['name']}\n\n{inner.get('doc', '')}\n\n{_fields(inner)}"
            for inner in _records(record)
        ]
    return "\n\n".join(parts) + "\n"


def _fields(record: Any) -> str:
    rows = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for field in record["fields"]:
        default = f"`{_text(field['default'])}`" if "default" in field else ""
        rows.append(f"| `{field['name']}` | {_type(field['type'])} | {default} | {field['doc']} |")
    return "\n".join(rows)


def _text(default: Any) -> str:
    return "null" if default is None else str(default) if default != "" else '""'


def _type(kind: Any) -> str:
    """Return a type in words."""
    match kind:
        case str():
            return kind
        case ["null", other]:
            return f"optional {_type(other)}"
        case {"logicalType": logical}:
            return str(logical)
        case {"type": "array", "items": items}:
            return f"array of {_type(items)}"
        case {"type": "map", "values": values}:
            return f"map of {_type(values)}"
        case {"type": "enum", "symbols": symbols}:
            return ", ".join(symbols)
        case {"type": "record", "name": name}:
            return f"[{name}](#{name.lower()})"
        case _:
            raise TypeError(f"no words for the type {kind}")


def _records(kind: Any) -> Iterator[Any]:
    """Yield the records inside a type, in their order."""
    parts = kind if isinstance(kind, list) else []
    if isinstance(kind, dict):
        parts = [field["type"] for field in kind.get("fields", [])] + [
            kind[key] for key in ("items", "values") if key in kind
        ]
    for part in parts:
        if isinstance(part, dict) and part.get("type") == "record":
            yield part
        yield from _records(part)


def source(path: Path) -> str:
    """Return a file as a page, or a folder as a list of its files."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        inner = "\n".join(
            f"- [{each.name}]({each.name}{'/index.md' if each.is_dir() else '.md'})"
            for each in _inner(path)
        )
        return f"# {name}/\n\n{inner}\n"
    language = _LANGUAGES.get(path.suffix, path.suffix.removeprefix("."))
    return f"# {name}\n\n````{language}\n{path.read_text('utf-8').rstrip()}\n````\n"


def _place(path: Path) -> str:
    """Return the place of the page of a file or folder."""
    name = PurePosixPath("source") / path.relative_to(ROOT).as_posix()
    return f"{name}/index.md" if path.is_dir() else f"{name}.md"


def _inner(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if (path.is_dir() and path.name != "__pycache__")
        or path.suffix in {".avsc", ".sql", ".yaml"}
    )


def _with_inner(path: Path) -> Iterator[Path]:
    """Yield a path and, for a folder, the files in it that can be shown."""
    yield path
    if path.is_dir():
        for each in _inner(path):
            yield from _with_inner(each)
