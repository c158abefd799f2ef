"""`leadstream completion`: verbs and options by the Tab key."""

import argparse
from typing import Any

_SHELLS = ("bash", "zsh", "fish")


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "completion",
        help="print a script that completes verbs and options in bash, zsh or fish",
        description="Print a script for your shell, which then completes verbs, options and\n"
        "their values by the Tab key. It needs the extra completion.",
        epilog="examples:\n"
        "  source <(leadstream completion bash)\n"
        '  leadstream completion zsh > "${fpath[1]}/_leadstream"\n'
        "  leadstream completion fish > ~/.config/fish/completions/leadstream.fish",
    )
    parser.add_argument("shell", choices=_SHELLS, help="the shell that reads the script")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    from leadstream.cli.main import parser
    from leadstream.errors import UserError

    try:
        import shtab
    except ModuleNotFoundError:
        raise UserError(
            "completion needs the extra completion: `pip install '.[completion]'`"
        ) from None
    top = parser()
    _complete_files(top, shtab)
    print(shtab.complete(top, arguments.shell))
    return 0


def _complete_files(parser: argparse.ArgumentParser, shtab: Any) -> None:
    """Complete the names of files where an option takes one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _complete_files(inner, shtab)
        elif str(action.metavar).endswith(("FILE", ".toml")):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar == "FOLDER":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
