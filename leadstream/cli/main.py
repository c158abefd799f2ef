"""The command `leadstream`: one module for each family of verbs."""

import argparse
import importlib
import os
import sys
from typing import NoReturn

from leadstream import __version__
from leadstream.errors import Poison, Transient, UserError

_FAMILIES = (
    "demo",
    "run",
    "topics",
    "config",
    "doctor",
    "db",
    "relay",
    "translate",
    "sink",
    "simulate",
    "rescore",
    "import_",
    "train",
    "retrain",
    "models",
    "follow",
    "dead_letters",
    "console",
    "schemas",
)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; a test checks the docs against it."""
    top = _Parser(
        prog="leadstream",
        description="Calibrated lead scores that follow every change of a lead.",
        epilog="Settings are environment variables or a .env file: `leadstream config` shows them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"leadstream {__version__}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    for family in _FAMILIES:
        importlib.import_module(f"leadstream.cli.{family}").add_parser(verbs)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one verb. Exit codes: 0 done, 1 failed, 2 bad usage or settings, 3 dead-letter limit."""
    given = parser().parse_args(arguments)
    try:
        return int(given.func(given))
    except UserError as error:
        print(f"leadstream: {error}", file=sys.stderr)
        return error.exit_code
    except (Transient, Poison) as error:
        print(f"leadstream: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("leadstream: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output has gone, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
