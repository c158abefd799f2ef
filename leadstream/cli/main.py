"""The command `leadstream`: one module for each family of verbs."""

import argparse
import importlib
import sys
import traceback
from typing import Any, NoReturn

from leadstream import __version__
from leadstream.cli.help_formatter import HelpFormatter
from leadstream.errors import OutputClosed, OutputLost, Poison, Transient, UserError
from leadstream.terminal import clean_line, discard_output, guarded_streams

# By what people want to do, in the order of `leadstream --help`.
_FAMILIES = {
    "try it": ("demo", "simulate"),
    "serve scores": ("run", "rescore", "refresh", "lead", "sink"),
    "connect a CRM": ("fields", "db", "relay", "mapping", "import_", "translate"),
    "learn from outcomes": ("train", "retrain", "models", "follow", "learn", "history"),
    "triage dead letters": ("dead_letters", "console"),
    "set up and check": ("topics", "config", "doctor", "schemas", "losses", "completion"),
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and whose help fits the terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"formatter_class": HelpFormatter})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


class _TopParser(_Parser):
    """The parser of `leadstream`: its help lists the verbs by what people want to do."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.groups: dict[str, list[argparse.Action]] = {}

    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, [])
        formatter.add_text(self.description)
        options = [action for action in self._actions if action.option_strings]
        for title, actions in (*self.groups.items(), ("options", options)):
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; a test checks the docs against it."""
    top = _TopParser(
        prog="leadstream",
        description="Calibrated lead scores that follow every change of a lead.",
        epilog="Each verb has `--help` with an example. Settings are environment variables or a "
        ".env file: `leadstream config` shows them.",
    )
    top.add_argument("--version", action="version", version=f"leadstream {__version__}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_Parser)
    for title, families in _FAMILIES.items():
        known = len(verbs._choices_actions)
        for family in families:
            importlib.import_module(f"leadstream.cli.{family}").add_parser(verbs)
        top.groups[title] = verbs._choices_actions[known:]
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
