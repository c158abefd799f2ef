"""`python -m tests.faults --seed N` replays one schedule; without it, many.

Exit code 1 where a promise was broken.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from leadstream.errors import UserError
from leadstream.local.kafka import fetch_jars, find_java
from tests.faults.checker import Violation, violations
from tests.faults.environment import fault_environment
from tests.faults.history import load
from tests.faults.run import HISTORY, Ran, run
from tests.faults.schedule import schedule

COLUMNS = (
    "done",
    "seed",
    "brokers",
    "faults",
    "changes",
    "letters",
    "commits",
    "fenced",
    "violations",
)
MAX_PRINTED = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 where every promise was kept in every schedule."""
    options = _options(arguments)
    console = Console(highlight=False, soft_wrap=True)
    if options.check:
        found = violations(load(options.check))
        _tell(console, found)
        return int(bool(found))
    seeds = (
        [options.seed]
        if options.seed is not None
        else range(options.first, options.first + options.schedules)
    )
    try:
        find_java()
        fetch_jars(console.print)
    except UserError as error:
        console.print(str(error))
        return 1
    options.folder.mkdir(parents=True, exist_ok=True)
    began, done = time.monotonic(), list[Ran]()
    console.print("".join(f"{name:>{_width(name)}}" for name in COLUMNS))
    for seed in seeds:
        ran = _one(seed, options, console)
        done.append(ran)
        row = (f"{len(done)}/{len(seeds)}", *_row(ran))
        console.print(
            "".join(f"{value:>{_width(name)}}" for name, value in zip(COLUMNS, row, strict=True))
        )
        if ran.violations:
            _tell(console, ran.violations)
            console.print(f"  replay: {_replay(ran)}\n  kept:   {ran.folder}")
        _write(options.json, done, time.monotonic() - began)
    _sum(console, done)
    wrong = sum(len(ran.violations) for ran in done)
    console.print(
        f"{wrong} violations, {(time.monotonic() - began) / 60:.0f} minutes; {options.json}"
    )
    return int(wrong > 0)


def _sum(console: Console, done: Sequence[Ran]) -> None:
    faults = sum((ran.faults for ran in done), Counter[str]())
    figures = sum((Counter(ran.figures) for ran in done), Counter[str]())
    for counts in (faults, figures):
        console.print(", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items())))
    console.print(f"{len(done)} schedules, {faults.total()} faults, {figures['changes']:,} changes")


def _one(seed: int, options: argparse.Namespace, console: Console) -> Ran:
    """On a ground of its own: a schedule must not depend on those before it."""
    # Every second schedule of many is on three brokers; one replayed has those that its seed had.
    brokers = options.brokers or (3 if seed % 2 else 1)
    plan = schedule(seed, options.seconds, brokers)
    folder = options.folder / f"seed-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with console.status(
        f"seed {seed}: {len(plan.faults)} faults in {plan.seconds:g} s on {brokers} broker(s)"
    ):
        ran = Ran(plan, folder)
        try:
            with fault_environment(brokers, folder, lambda _: None) as environment:
                ran = run(environment, plan, folder / "run")
        # hours of schedules do not end with one that could not be done
        except Exception as error:  # noqa: BLE001
            ran.violations.append(Violation("harness", f"{type(error).__name__}: {error}"))
    ran.folder = folder
    if not ran.violations and not options.keep:
        shutil.rmtree(folder)
    return ran


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this schedule alone")
    parser.add_argument("--schedules", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--first", type=int, default=1, help="the first seed of many (default 1)")
    parser.add_argument(
        "--seconds", type=float, default=60, help="how long faults go on in each (default 60)"
    )
    parser.add_argument(
        "--brokers",
        type=int,
        choices=(1, 3),
        help="instead of one for even and three for odd seeds",
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the folder of a good schedule, too"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "leadstream-faults"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("faults.json"), help="where the results go"
    )
    parser.add_argument(
        "--check",
        type=Path,
        metavar="HISTORY",
        help=f"check a kept {HISTORY} again, and do nothing",
    )
    return parser.parse_args(arguments)


def _row(ran: Ran) -> tuple[int | str, ...]:
    figures = ran.figures
    cells = [figures.get(name, 0) for name in ("changes", "letters", "transactions")]
    fenced = figures.get("rejoins", 0) + figures.get("lost assignments", 0)
    return (
        ran.schedule.seed,
        ran.schedule.brokers,
        ran.faults.total(),
        *cells,
        fenced,
        len(ran.violations),
    )


def _width(name: str) -> int:
    return max(len(name) + 1, 8)


def _tell(console: Console, found: Sequence[Violation]) -> None:
    for violation in found[:MAX_PRINTED]:
        console.print(f"  {violation.rule}: {violation.what}", markup=False)
    if len(found) > MAX_PRINTED:
        console.print(f"  and {len(found) - MAX_PRINTED} more")


def _replay(ran: Ran) -> str:
    plan = ran.schedule
    return (
        f"python -m tests.faults --seed {plan.seed} --seconds {plan.seconds:g} --brokers "
        f"{plan.brokers}"
    )


def _write(path: Path, done: Sequence[Ran], seconds: float) -> None:
    cells = [
        {
            "schedule": asdict(ran.schedule),
            "faults": ran.faults,
            "figures": ran.figures,
            "violations": [asdict(violation) for violation in ran.violations],
        }
        for ran in done
    ]
    path.write_text(json.dumps({"seconds": round(seconds), "schedules": cells}, indent=1), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
