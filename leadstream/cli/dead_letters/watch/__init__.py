"""`leadstream dead-letters watch`: the causes on the whole screen, with keys to look, to replay and to discard."""

import argparse
import sys
from typing import Any

from leadstream.errors import UserError

INSTALL = (
    "the view is made with textual, which is not installed here: pip install 'leadstream[triage]'"
)


def watch(arguments: argparse.Namespace, triage: Any, wanted: Any) -> int:
    """Show the letters of a filter until the view is left; a decision at hand then ends with its transaction.

    Raises UserError where there is no terminal or no textual.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(
            "watch needs a terminal; `leadstream dead-letters groups` prints the causes, or --json data"
        )
    try:
        import textual as _textual  # noqa: F401  # an extra
    except ImportError as error:
        raise UserError(INSTALL) from error
    from consumer.dead_letters.service import current_account
    from leadstream.cli.dead_letters.watch.app import Watch
    from leadstream.log import silence

    silence()
    app = Watch(triage, wanted, arguments.by or current_account())
    app.run()
    app.finish()
    return app.return_code or 0
