"""`leadstream dead-letters watch`: causes on the full screen, with keys to replay and discard."""

import argparse
import sys
from typing import Any

from leadstream.errors import UserError

INSTALL = "the view needs textual, which is not installed: pip install 'leadstream[triage]'"


def watch(arguments: argparse.Namespace, triage: Any, wanted: Any) -> int:
    """Show the letters of a filter until the user quits; finish a running transaction first.

    Raises UserError without a terminal or without textual.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(
            "watch needs a terminal; `leadstream dead-letters groups` prints the causes, "
            "--json as data"
        )
    try:
        import textual as _textual  # noqa: F401  # an extra
    except ImportError as error:
        raise UserError(INSTALL) from error
    from consumer.dead_letters.service import current_account
    from leadstream.cli.dead_letters.watch.app import WatchApp
    from leadstream.log import silence

    silence()
    app = WatchApp(triage, wanted, arguments.by or current_account())
    app.run()
    app.finish()
    return app.return_code or 0
