"""A comparison of two revisions: the same batches through both pipelines must give the same bytes.

    python -m benchmarks.same_bytes REV [--payloads 200000] [--seed 1]

The script checks REV out into a temporary folder. It then runs one seeded corpus through the
pipelines of both trees, each with and without numba, and compares everything that comes out.
The exit code is 1 at the first difference, which is printed.
"""

import argparse
import itertools
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from features import specify
from models.registry.versions import ModelRegistry
from models.train.training import TrainOptions, train
from producer.table import training_frame
from schemas.codec import Writer
from tests.faults.payloads import Shelf, payloads
from tests.trained_models import CREATED_MS, START_MS, TRUST, promoted_store
from tests.unit.pipelines import CHANGES, NOW_MS, REQUESTS, STATE

ROOT = Path(__file__).parents[1]
SIZES = (1, 1, 2, 3, 5, 8, 9, 10, 11, 13, 40, 200, 700, 2000)
LEADS = 24  # leads that the database knows; a few more are drawn


def main() -> int:
    """Run the comparison, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision")
    parser.add_argument("--payloads", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, worktree(options.revision, Path(folder)) as old:
        _write_corpus(Path(folder), options.payloads, options.seed)
        trees = {options.revision: old, "this tree": ROOT}
        found: dict[str, list[str]] = {}
        for numba in ("with", "without"):
            runs = {
                f"{name} {numba} numba": _start(tree, Path(folder), numba)
                for name, tree in trees.items()
            }
            for name, run in runs.items():
                found[name] = run.communicate()[0].split()
                if run.returncode:
                    print(f"{name} failed")
                    return 1
                print(f"{name}: {len(found[name]):,} batches", flush=True)
        return _compare(found, trees, Path(folder))


def _compare(found: dict[str, list[str]], trees: dict[str, Path], folder: Path) -> int:
    first, *others = found
    for other in others:
        for place, (ours, theirs) in enumerate(zip(found[first], found[other], strict=True)):
            if ours != theirs:
                print(f"batch {place} differs between {first} and {other}:")
                printed = [
                    _start(trees[name.rsplit(" ", 2)[0]], folder, name.split()[-2], place)
                    .communicate()[0]
                    .splitlines()
                    for name in (first, other)
                ]
                for line, (one, two) in enumerate(itertools.zip_longest(*printed)):
                    if one != two:
                        print(f"line {line}:\n< {one}\n> {two}")
                        break
                return 1
    print("every record, letter, disposition and answer is the same")
    return 0


@contextmanager
def worktree(revision: str, folder: Path) -> Iterator[Path]:
    """Check a revision out below `folder`, and remove it at the end."""
    tree = folder / "tree"
    git = ("git", "-C", str(ROOT), "worktree")
    subprocess.run([*git, "add", "--detach", str(tree), revision], check=True, capture_output=True)
    try:
        yield tree
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def _start(
    tree: Path, folder: Path, numba: str, printed: int | None = None
) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-P", str(ROOT / "benchmarks" / "same_bytes_worker.py")]
    words = [str(folder), numba, *([] if printed is None else [str(printed)])]
    return subprocess.Popen(
        [*command, *words], cwd=tree, env=environment, stdout=subprocess.PIPE, text=True
    )


def _write_corpus(folder: Path, count: int, seed: int) -> None:
    """Write the models, the registry's schemas and the scenarios of batches to `folder`."""

    registry = ModelRegistry(promoted_store(folder / "models"), TRUST)
    own = specify(numbers=("budget", "a"), categories=("note", "a"))
    options = TrainOptions(
        created_at=CREATED_MS, specification=own, recipe="audited", calibrator="venn_abers"
    )
    registry.promote(registry.publish(train(_own_table(), options)), "challenger", force=True)
    corpus = {
        "state": STATE,
        "store": registry.url,
        "schemas": Shelf().schemas,
        "scenarios": _scenarios(count, seed),
    }
    (folder / "corpus").write_bytes(pickle.dumps(corpus))


def _own_table() -> Any:
    """Build a training table in which the own fields of the corpus matter."""

    random = np.random.default_rng(1)
    day, budget = 86_400_000, random.uniform(0, 10, 1500)
    as_of = [START_MS + i * day // 8 for i in range(1500)]
    states = [
        {
            "created_at": moment - day,
            "numbers": {"budget": budget[i], "a": float(i % 7)},
            "categories": {"note": "x" if i % 3 else "y", "a": "" if i % 5 else "z"},
        }
        for i, moment in enumerate(as_of)
    ]
    converts = random.random(1500) < np.clip(budget / 12, 0, 1)
    return training_frame([f"lead_{i}" for i in range(1500)], as_of, states, converts.tolist())


def _scenarios(count: int, seed: int) -> list[dict[str, Any]]:

    rng = np.random.default_rng([seed, 21])
    fuzzed = payloads(seed)
    dense = _dense(rng)
    scenarios: list[dict[str, Any]] = [
        {
            "settings": {
                "LEADSTREAM_COALESCE": coalesce,
                "LEADSTREAM_CHALLENGER_SHARE": share,
                "LEADSTREAM_REASONS": reasons,
            },
            "challenger": challenger,
            "versions": versions,
            "database": database,
            "batches": [],
        }
        for (challenger, share), coalesce, (versions, database, reasons) in itertools.product(
            ((False, "0"), (True, "0"), (True, "0.3")),
            ("true", "false"),
            ((True, True, "3"), (False, True, "0"), (True, False, "5")),
        )
    ]
    offsets = itertools.count()
    left = count
    for scenario in itertools.cycle(scenarios):
        size = min(left, SIZES[int(rng.integers(len(SIZES)))])
        fuzz_share = (0.0, 0.5, 1.0)[int(rng.integers(3))]
        messages = []
        for _ in range(size):
            if rng.random() < fuzz_share:
                payload = next(fuzzed)
                topic, key, value = payload.topic, payload.key, payload.value
            else:
                topic, key, value = next(dense)
            headers = [("trace", b"t")] if rng.random() < 0.1 else None
            partition = int(rng.integers(3))
            messages.append((topic, partition, next(offsets), key, value, headers, NOW_MS - 7))
        scenario["batches"].append((bool(rng.random() < 0.9), messages))
        left -= size
        if not left:
            return scenarios
    raise AssertionError("unreachable")


def _dense(rng: Any) -> Iterator[tuple[str, bytes | None, bytes | None]]:
    """Generate changes of few leads: every kind, versions that go back and forth, bad states."""

    change, request = Writer("LeadChanged"), Writer("RescoreRequest")

    def pick(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    for i in itertools.count():
        lead = f"lead_{int(rng.integers(LEADS + 4))}" if rng.random() < 0.9 else f"unique é {i}"
        state = STATE | {
            "lead_score": float(rng.integers(0, 100)),
            "numbers": pick({}, {"budget": float(rng.integers(10))}, {"a": 2.0, "budget": 1e9}),
            "categories": pick({}, {"note": pick("x", "Y ", "new"), "a": "z"}, {"a": ""}),
        }
        if rng.random() < 0.12:
            state |= pick(
                {"lead_score": 1e14},
                {"created_at": NOW_MS + 1},
                {"created_at": -5},
                {"lead_score": None, "source": None, "campus_name": ""},
                {"touchpoint_count": 10**6 + 1, "status": "x" * 300},
            )
        event = {
            "event_id": pick(f"event {i}", f"event {i}", f"event {i}", "", "é" * 256, "é" * 257),
            "lead_id": lead,
            "change_type": pick("UPDATED", "UPDATED", "CREATED", "RESCORE", "DELETED"),
            "occurred_at": NOW_MS if rng.random() < 0.97 else pick(-1, 253_402_300_800_000),
            "lead_version": pick(0, i, i, i // 50, int(rng.integers(-2, 9))),
            "origin": pick(*["crm"] * 9, "leadstream"),
            "lead": None if rng.random() < 0.3 else state,
        }
        kind = rng.random()
        if kind < 0.06:
            yield CHANGES, pick(lead.encode(), lead.encode(), None, b"\xff", b"k" * 257), None
        elif kind < 0.09:
            key = pick(b"", None, b"other", b"\xc3", b"k" * 300)
            yield CHANGES, key, change.encode(event)
        elif kind < 0.13:
            ids = [pick(lead, f"lead_{int(rng.integers(LEADS + 4))}", 7, "", "\ud800")]
            ids += [f"lead_{int(n)}" for n in rng.integers(LEADS + 4, size=int(rng.integers(9)))]
            name = pick(f"request {i}", None, "half \ud83d")
            yield (
                REQUESTS,
                pick(b"key", None),
                json.dumps({"request_id": name, "lead_ids": ids}).encode(),
            )
        elif kind < 0.14:
            record = {"request_id": f"r{i}", "lead_ids": [lead, lead], "requested_by": None}
            yield REQUESTS, None, request.encode(record)
        else:
            value = change.encode(event)
            # The registry's id of the same schema: read by the codec first, in columns later.
            framed = value if rng.random() < 0.9 else b"\0\0\0\0\1" + value[10:]
            yield CHANGES, lead.encode(), framed


if __name__ == "__main__":
    sys.exit(main())
