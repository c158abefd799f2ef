"""`leadstream console`: the dead letters as a web page on this machine."""

import argparse

from leadstream.cli.progress import port


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "console",
        help="the dead letters as a web page on this machine",
        description="Serve a web page on 127.0.0.1 until Ctrl-C: the causes of the dead\n"
        "letters, each letter in full, dry runs, replays, discards and the audit.\n"
        "The link that it prints works once, for one browser.",
        epilog="example:\n  leadstream console --port 8095",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--port",
        type=port,
        default=8095,
        metavar="N",
        help="where to listen; 0 = any free port (default: 8095)",
    )
    add("--by", metavar="NAME", help="the decider, for the audit (default: your account)")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; then finish the current transaction of a decision."""
    from consumer.dead_letters.service import TriageService, current_account
    from leadstream import log
    from leadstream.cli.console.jobs import Jobs
    from leadstream.cli.console.pages import Pages
    from leadstream.cli.console.server import Console
    from leadstream.process.signals import stop_on_signals
    from leadstream.settings import load_settings

    settings = load_settings()
    settings.need("KAFKA_BOOTSTRAP_SERVERS", "name the brokers, for example localhost:9092")
    with TriageService(settings) as triage:
        jobs = Jobs(triage, arguments.by or current_account())
        console = Console(
            arguments.port, Pages(triage, jobs), say=lambda link: print(link, flush=True)
        )
        stop_on_signals(console, log.get_logger())
        console.serve()
        jobs.close()
    return 0
