"""The command `leadstream`: one module for each family of verbs."""

import argparse
import importlib
import sys
import traceback
from typing import NoReturn

from leadstream import __version__
from leadstream.errors import OutputClosed, OutputLost, Poison, Transient, UserError
from leadstream.terminal import clean_line, discard_output, guarded_streams

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
    "history",
    "dead_letters",
    "console",
    "schemas",
    "losses",
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
    with guarded_streams():
        try:
            try:
                return _run(arguments)
            finally:
                sys.stdout.flush()
        except OutputClosed:
            discard_output()
            return 0
        except OutputLost as error:
            discard_output()
            return _failed(error, error.exit_code)


def _run(arguments: list[str] | None) -> int:
    given = parser().parse_args(arguments)
    try:
        return int(given.func(given))
    except OutputLost:
        raise
    except UserError as error:
        return _failed(error, error.exit_code)
    except (Transient, Poison) as error:
        return _failed(error, 1)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    except OutputClosed:
        raise
    except Exception:  # noqa: BLE001  (a bug: one trace)
        # Printed here, because the interpreter would not clean it.
        traceback.print_exc()
        return 1


def _failed(why: object, code: int) -> int:
    text = str(why) if getattr(why, "has_lines", False) else clean_line(str(why))
    print(f"leadstream: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
