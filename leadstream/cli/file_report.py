"""Print what became of the rows of a file, grouped by reason."""

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from producer.importer import ImportedRow, RefusedRow
    from producer.refusals import FileReport

_WIDTH = 80


def print_report(path: Path, report: "FileReport") -> None:
    """Print a sentence for each reason to standard error."""
    for sentence in report.sentences():
        print(
            textwrap.fill(
                f"{path.name}: {sentence}",
                _WIDTH,
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            ),
            file=sys.stderr,
        )


def refused_lines(results: "list[ImportedRow | RefusedRow]") -> list[dict[str, Any]]:
    """Return each refused row with its first line and its problem."""
    from producer.importer import RefusedRow

    return [
        {"line": result.line, "problem": result.what}
        for result in results
        if isinstance(result, RefusedRow)
    ]
