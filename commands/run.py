"""`leadstream run`: the consumer."""

import argparse


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "run",
        help="run the consumer until it is stopped",
        description="Consume lead changes and rescore requests, publish predictions, results and dead letters.",
        epilog="example:\n  KAFKA_BOOTSTRAP_SERVERS=localhost:9092 MODEL_STORE=./store leadstream run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(func=run)


def run(_arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    from consumer import app
    from leadstream.settings import load_settings

    app.run(load_settings())
    return 0
