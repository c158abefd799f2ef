"""`leadstream config`: the effective settings."""

import argparse
import json


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "config",
        help="print the effective settings, secrets masked",
        description="Print every setting with the value in force; secrets are masked.",
        epilog="example:\n  leadstream config --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(func=config)


def config(arguments: argparse.Namespace) -> int:
    """Print the settings; name unknown variables and unfit limits on standard error."""
    import sys

    from leadstream.settings import effective, load_settings, unfit_limits, unknown_variables

    loaded = load_settings()
    settings = effective(loaded)
    if arguments.json:
        print(json.dumps(settings, indent=2))
    else:
        for name, value in settings.items():
            print(f"{name}={'' if value is None else value}")
    if loaded.env_file is not None:
        print(f"leadstream: read {loaded.env_file}", file=sys.stderr)
    for sentence in [*unknown_variables(), *unfit_limits(loaded.kafka)]:
        print(f"leadstream: {sentence}", file=sys.stderr)
    return 0
