"""The style check: names, words, line lengths and docstrings, by room.

`python -m tests.style` checks every room, `python -m tests.style consumer docs` checks some.
The exit code is 1 when there is a finding. `make lint` runs it over all rooms.
"""

import argparse
import ast
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COLUMNS = 100
NESTED = ("leadstream.cli", "leadstream.local")
PRODUCT = ("consumer", "features", "leadstream", *NESTED, "models", "producer", "schemas")
TOOLS = ("benchmarks", "deploy", "docs", "examples", "tests")
# Files that a program writes, or that hold the work of others.
GENERATED = re.compile(
    r"(^|/)(\.|(node_modules|build|__pycache__|[^/]*\.egg-info)/)|"
    r"^schemas/(asyncapi\.yaml$|released/)|"
    r"^deploy/(requirements.*\.txt|sbom\.cdx\.json|grafana/)"
)

# Words that the project no longer uses in names, with the word to use: docs/glossary.md explains.
WORDS = {
    "anatomy": "inspect",
    "barrier": "safe upper bound",
    "begun": "commit started",
    "beside": "in background",
    "books": "accounting",
    "buried": "dead lettered",
    "bury": "dead_letter",
    "catalogue": "current schemas",
    "coded": "dictionary encoded",
    "desk": "decision executor",
    "desks": "decision executors",
    "elders": "earlier transactions",
    "facts": "headers, as_json",
    "fat": "with state",
    "fate": "disposition",
    "fates": "dispositions",
    "forecast": "dry run",
    "ground": "test environment",
    "grown": "cumulative folds",
    "hostile": "malicious artifacts",
    "intake": "outcome reader",
    "judge": "evaluate, planner",
    "judged": "evaluated",
    "least": "min",
    "mend": "fix, patch, FAIL",
    "mends": "fixes",
    "misfit": "ValidationError",
    "most": "max",
    "neighborhood": "hex window",
    "neighbourhood": "hex window",
    "nobody": "none",
    "office": "triage service",
    "outlook": "lag snapshot",
    "owed": "replaying",
    "park": "parked",
    "rehearsal": "dry run",
    "rehearse": "dry run",
    "said": "format_..., reported",
    "says": "reports",
    "settle": "await commit",
    "settled": "execution result",
    "shown": "render, displayed",
    "somebody": "the actor",
    "stacks": "latest per lead",
    "stay": "skipped",
    "stays": "skipped",
    "subscribed": "subscriber",
    "survey": "selection",
    "suspect": "blame",
    "tally": "progress",
    "thin": "without state",
    "told": "headers, as_json",
    "tops": "latest per lead",
    "unsettled": "open writers",
    "verdict": "planned action",
    "verdicts": "planned actions",
    "void": "superseded",
    "who": "the actor",
    "whole": "full",
    "whom": "the actor",
    "whose": "the actor",
    "world": "harness",
    "worlds": "harnesses",
}
PHRASES = {
    "at_once": "inline",
    "come_late": "mark_late",
    "put_in_order": "drop_superseded",
}
# These say too little as the whole name of a function, class or module.
NAMES = {
    "answers": "request replies",
    "below": "previous",
    "hold": "pause and rewind",
    "meet": "mark",
    "of": "from_..., take, encode, filter, get_or_create",
    "places": "indices",
    "plain": "basic",
    "tail": "topic reader",
    "turn": "process",
    "under": "previous",
    "words": "text",
}
# Names and phrases with a meaning of their own outside of this project.
ALLOWED_PHRASES = ("at_least_once", "who_am_i", "most_common", "most_recent", "dry_run")
# `judged` is a field of `follow --json`.
ALLOWED_NAMES = frozenset({"judged"})
# Words that prose avoids.
PROSE = {
    "anew": "again",
    "beside": "next to, in the background, in addition to",
    "mend": "fix",
    "mended": "fixed",
    "mends": "fixes",
    "whom": "the noun",
}
_PROSE = re.compile(rf"\b({'|'.join(PROSE)})\b", re.IGNORECASE)
# A first line that begins so does not say what the thing is or does.
_VAGUE = re.compile(
    r"(as|how|if|it|its|no|nobody|nothing|such|that|their|there|these|they|this|those|to|what|when|"
    r"where|whether|which|who|whoever|whom|whose|why|with|without)$",
    re.IGNORECASE,
)
_ARTICLES = re.compile(r"(a|an|the|all|any|both|each|every|one|two)$", re.IGNORECASE)
# Third person ("Returns") where an imperative belongs; nouns and verbs that end alike are listed.
_THIRD_PERSON = re.compile(r"^[A-Z][a-z]+[^su]s$")
_ENDS_IN_S = frozenset({"alias", "bias", "canvas"})


@dataclass(frozen=True, slots=True, order=True)
class StyleFinding:
    """One breach of a rule, at one line of a file."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A Python file: its path from the root, its room, its text and its tree."""

    path: Path
    room: str
    lines: list[str]
    tree: ast.Module


def room_of(path: Path) -> str:
    """Return the room of a path from the root; files at the top belong to the docs."""
    first = ".".join(path.parts[:2])
    if first in NESTED:
        return first
    return path.parts[0] if path.parts[0] in {*PRODUCT, *TOOLS} else "docs"


def files(root: Path) -> Iterator[Path]:
    """Yield the path from the root of every file that the check reads."""
    for folder, folders, names in os.walk(root):
        within = Path(folder).relative_to(root)
        folders[:] = sorted(each for each in folders if not GENERATED.search(f"{within / each}/"))
        yield from (
            within / each for each in sorted(names) if not GENERATED.search(str(within / each))
        )


def split_words(name: str) -> list[str]:
    """Return the words of an identifier, in lower case."""
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)
    return [word.lower() for word in found]


def defined_names(tree: ast.Module) -> Iterator[tuple[str, int, bool]]:
    """Yield each name that a module defines: the name, its line, and whether it names code."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                if not node.name.startswith("test_"):  # these are sentences
                    yield node.name, node.lineno, True
            case ast.arg():
                yield node.arg, node.lineno, False
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno, False
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno, False
            case ast.alias(asname=str(name)):
                yield name, node.lineno, False


def old_words(name: str, names_code: bool) -> Iterator[str]:
    """Yield what is wrong with the words of an identifier."""
    if name in ALLOWED_NAMES:
        return
    words = split_words(name)
    joined = "_".join(words)
    if names_code and joined in NAMES:
        yield f"{name}: say {NAMES[joined]!r}, not {joined!r}"
    for phrase in ALLOWED_PHRASES:
        joined = re.sub(rf"(^|_){phrase}(?=_|$)", "", joined)
    for phrase, better in PHRASES.items():
        if re.search(rf"(^|_){phrase}(_|$)", joined):
            yield f"{name}: say {better!r}, not {phrase!r}"
    for word in joined.split("_"):
        if word in WORDS:
            yield f"{name}: say {WORDS[word]!r}, not {word!r}"


def check_words(source: SourceFile) -> Iterator[StyleFinding]:
    """Find identifiers with words of the old vocabulary."""
    names = [(source.path.stem, 1, True)] if not source.path.stem.startswith("test_") else []
    for name, line, names_code in {*names, *defined_names(source.tree)}:
        for message in old_words(name, names_code):
            yield StyleFinding(source.path, line, message)


def check_class_names(files: Iterable[SourceFile]) -> Iterator[StyleFinding]:
    """Find class names that are used more than once."""
    places: dict[str, list[tuple[Path, int]]] = defaultdict(list)
    for source in files:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append((source.path, node.lineno))
    for name, where in places.items():
        for path, line in where if len(where) > 1 else []:
            others = ", ".join(
                f"{other}:{at}" for other, at in where if (other, at) != (path, line)
            )
            yield StyleFinding(path, line, f"class {name} is also the name of {others}")


def check_module_names(files: Iterable[SourceFile]) -> Iterator[StyleFinding]:
    """Find module names that a room uses more than once."""
    places: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for source in files:
        if not source.path.stem.startswith(("__", "test_")) and source.path.stem != "conftest":
            places[source.room, source.path.stem].append(source.path)
    for (room, name), paths in places.items():
        for path in paths if len(paths) > 1 else []:
            yield StyleFinding(path, 1, f"{room} has {len(paths)} modules with the name {name}")


def check_docstrings(source: SourceFile) -> Iterator[StyleFinding]:
    """Find docstrings of public names that do not begin with what the thing is or does."""
    for node, is_function in public_nodes(source.tree):
        docstring = ast.get_docstring(node)
        if docstring:
            line = 1 if isinstance(node, ast.Module) else node.lineno
            for message in docstring_faults(docstring, is_function):
                yield StyleFinding(
                    source.path, line, f"{getattr(node, 'name', 'module')}: {message}"
                )


def public_nodes(
    node: ast.Module | ast.ClassDef,
) -> Iterator[tuple[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """Yield a module's public parts, and whether each is a function that acts."""
    yield node, False
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public_nodes(child)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and child.name[0] != "_":
            yield child, not any(_is_property(each) for each in child.decorator_list)


def _is_property(decorator: ast.expr) -> bool:
    name = decorator.attr if isinstance(decorator, ast.Attribute) else getattr(decorator, "id", "")
    return name in {"property", "cached_property", "fixture"}


def docstring_faults(docstring: str, is_function: bool) -> Iterator[str]:
    """Yield what is wrong with the first line of a docstring."""
    first = docstring.splitlines()[0].strip()
    word = re.split(r"[\s,:]", first, maxsplit=1)[0]
    if not first.endswith((".", ":", "?")):
        yield f"the first line of the docstring is not a sentence: {first[:60]!r}"
    if word[:1].islower():
        yield f"the docstring begins in lower case: {word!r}"
    if _VAGUE.match(word) or (is_function and _ARTICLES.match(word)):
        wanted = "a verb" if is_function else "a noun"
        yield f"the docstring begins with {word!r}, not with {wanted}"
    elif is_function and _THIRD_PERSON.match(word) and word.lower() not in _ENDS_IN_S:
        yield f"the docstring begins with {word!r}: use the imperative"


def check_columns(path: Path, lines: list[str]) -> Iterator[StyleFinding]:
    """Find lines that are too long; table rows and lines without a space stay as they are."""
    is_prose = path.suffix == ".md"
    for number, line in enumerate(lines, 1):
        text = line.expandtabs(4)
        if len(text) <= COLUMNS or (is_prose and line.startswith("|")):
            continue
        text = re.sub(r"\s*# (noqa|type: ignore)\b.*$", "", text)
        if len(text) > COLUMNS and not re.match(r"^[\s#>*-]*(\[.*\]:)?\s*\S+$", text):
            yield StyleFinding(path, number, f"{len(text)} columns, more than {COLUMNS}")


def check_prose(path: Path, lines: list[str]) -> Iterator[StyleFinding]:
    """Find words that prose avoids, outside of code."""
    for number, line in enumerate(lines, 1):
        for found in _PROSE.finditer(re.sub(r"`[^`]*`", "", line)):
            better = PROSE[found[0].lower()]
            yield StyleFinding(path, number, f"{found[0]!r} in prose: say {better!r}")


def comments_and_docstrings(source: SourceFile) -> list[str]:
    """Return the lines of a file with everything but prose left empty."""
    kept = [""] * len(source.lines)
    for node in ast.walk(source.tree):
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                if ast.get_docstring(node, clean=False) is not None:
                    text = node.body[0]
                    last = text.end_lineno or text.lineno
                    kept[text.lineno - 1 : last] = source.lines[text.lineno - 1 : last]
    for number, line in enumerate(source.lines):
        if found := re.search(r"(?:^|\s{2})# .*$", line):
            kept[number] = kept[number] or found[0]
    return kept


def sources(root: Path = ROOT) -> list[SourceFile]:
    """Return every Python file below a folder."""
    found = []
    for path in files(root):
        if path.suffix == ".py":
            text = (root / path).read_text(encoding="utf-8")
            found.append(SourceFile(path, room_of(path), text.splitlines(), ast.parse(text)))
    return found


def check(root: Path = ROOT) -> list[StyleFinding]:
    """Return everything that the check finds below a folder, in order."""
    found: set[StyleFinding] = set()
    code = sources(root)
    for source in code:
        found |= set(check_columns(source.path, source.lines)) | set(check_words(source))
        if source.path.name != "style.py":  # it lists the words
            found |= set(check_prose(source.path, comments_and_docstrings(source)))
        if source.room in PRODUCT:
            found |= set(check_docstrings(source))
    for path in files(root):
        if path.suffix in {".md", ".sh"} or path.name in {"Dockerfile", "Makefile"}:
            lines = (root / path).read_text(encoding="utf-8").splitlines()
            found |= set(check_columns(path, lines))
            if path.suffix == ".md":
                found |= set(check_prose(path, lines))
    return sorted({*found, *check_class_names(code), *check_module_names(code)})


def main(arguments: list[str] | None = None) -> int:
    """Print the findings in the rooms that the command line names, or in all."""
    parser = argparse.ArgumentParser(prog="python -m tests.style", description=__doc__)
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help="leadstream.cli, docs, ...")
    parser.add_argument("--count", action="store_true", help="print only how many there are")
    options = parser.parse_args(arguments)
    wanted = set(options.rooms) or {*PRODUCT, *TOOLS}
    if unknown := wanted - {*PRODUCT, *TOOLS}:
        parser.error(f"no such room: {', '.join(sorted(unknown))}")
    found = [each for each in check() if room_of(each.path) in wanted]
    if options.count:
        counts: dict[str, int] = defaultdict(int)
        for each in found:
            counts[room_of(each.path)] += 1
        for room, count in sorted(counts.items()):
            print(f"{count:5} {room}")
    else:
        print(*found, sep="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
