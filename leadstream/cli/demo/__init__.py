"""`leadstream demo`: the whole system on this machine."""

import argparse

from leadstream.cli.progress import positive

_EVERY_REASON = 10


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "demo",
        help="the whole system on this machine, without any setup",
        description="Start a broker and Postgres, make a CRM and its history, train, start the\n"
        "consumer, send lead changes with bad ones among them, and check that every\n"
        "one is accounted for. Everything is removed at the end. The exit code is 0 only\n"
        "if the accounting balances.",
        epilog="example:\n  leadstream demo --keep",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--changes",
        type=positive,
        default=20_000,
        metavar="N",
        help="records for the changes topic (default 20000)",
    )
    add(
        "--bad",
        type=positive,
        metavar="N",
        help="bad records, on both input topics (default: 1 in 100)",
    )
    add("--rate", type=positive, default=2000, metavar="N", help="records a second (default 2000)")
    add(
        "--seed",
        type=positive,
        default=1,
        metavar="N",
        help="the same seed gives the same CRM (default 1)",
    )
    add("--keep", action="store_true", help="keep everything running until Ctrl-C")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; return 0 if the accounting balances."""
    from leadstream.cli.demo.steps import DemoOptions, demo
    from leadstream.errors import SettingsError

    changes, bad = arguments.changes, arguments.bad or max(_EVERY_REASON, arguments.changes // 100)
    if bad * 4 > changes:
        raise SettingsError(
            f"--changes {changes}: with {bad} bad records at least {bad * 4}; see --bad"
        )
    return demo(DemoOptions(changes, bad, arguments.rate, arguments.seed, arguments.keep))
