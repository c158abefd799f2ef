"""`leadstream run`: the consumer."""

import argparse


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "run",
        help="run the consumer until it is stopped",
        description="Consume lead changes and rescore requests, publish predictions, results and "
        "dead letters.",
        epilog="example:\n"
        "  KAFKA_BOOTSTRAP_SERVERS=localhost:9092 MODEL_STORE=./store leadstream run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(func=run)


def run(_arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    from leadstream.process.signals import leave_on_signals

    leave_on_signals()
    from leadstream.settings import load_settings

    # Before the imports that take seconds: a wrong setting is reported immediately.
    settings = load_settings()
    settings.need("KAFKA_BOOTSTRAP_SERVERS", "name the brokers, for example localhost:9092")
    settings.need("MODEL_STORE", "name the folder or URL that `leadstream train` writes models to")
    from leadstream.kafka.connection_check import ConnectionCheck

    access = ConnectionCheck(settings)
    from consumer.run import app

    access.check()
    app.run(settings)
    return 0
