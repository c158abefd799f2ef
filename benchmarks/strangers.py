"""Files from strangers: the product next to plain scikit-learn on the same split in time.

    python -m benchmarks.strangers [--data ../shared/data] [--json]
    python -m benchmarks.strangers --promotions [--noise 200] [--signals 100] [--first 0]

The table trains on the older 80 % of each file and judges on the newest 20 %. The exit code is 1
if the product is worse than the best of the others by more than two standard errors, in ROC-AUC or
in the Brier score, or if noise passes the gate.

`--promotions` counts what passes the gate: of trainings on pure noise, and on one weak signal.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.preprocessing import OrdinalEncoder

from benchmarks.proof import BANK, MAPPINGS, XEDUCATION, bank_table
from benchmarks.stranger_files import StrangerFile, all_files, noise_file, signal_file
from features import specify
from leadstream.errors import UserError
from models.evaluate import auc_loss, expected_calibration_error, mean_of_groups, roc_auc
from models.registry import gate
from models.serve.scorer import Model
from models.train.training import TrainOptions, train
from producer.importer import read_table
from producer.mapping import load_mapping

OLDER, NEWER = 0.8, 0.2
ERRORS = 2.0
NOISE_BAR, SIGNAL_BAR = 0.01, 0.95
PRODUCT = "Leadstream"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SplitFile:
    """A file cut in time into older and newer rows, and the options to train with."""

    name: str
    older: pd.DataFrame
    newer: pd.DataFrame
    options: TrainOptions
    used: float
    noise: bool


def main() -> int:
    """Run the table or the promotions; return the exit code."""
    parser = argparse.ArgumentParser(description="Files from strangers, next to scikit-learn.")
    parser.add_argument("--data", type=Path, default=XEDUCATION.parent, help="the shared data sets")
    parser.add_argument("--promotions", action="store_true", help="count what passes the gate")
    parser.add_argument("--noise", type=int, default=200, help="trainings on noise (200)")
    parser.add_argument("--signals", type=int, default=100, help="trainings on a weak signal (100)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--workers", type=int, default=1, help="processes for --promotions (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    result = promotions(arguments) if arguments.promotions else table(arguments.data)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        (_print_promotions if arguments.promotions else _print_table)(result)
    return 0 if result["passed"] else 1


def promotions(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how many trainings on noise and on a weak signal pass the gate."""
    found: dict[str, Any] = {}
    with ProcessPoolExecutor(arguments.workers) as pool:
        for kind, decide, count in (
            ("noise", noise_passes, arguments.noise),
            ("signals", signal_passes, arguments.signals),
        ):
            seeds = range(arguments.first, arguments.first + count)
            found[kind] = dict(zip(seeds, pool.map(decide, seeds), strict=True))
    passing = {kind: sum(found[kind].values()) for kind in found}
    passed = (
        passing["noise"] <= NOISE_BAR * arguments.noise
        and passing["signals"] >= SIGNAL_BAR * arguments.signals
    )
    return {
        "noise": arguments.noise,
        "noise_champions": passing["noise"],
        "noise_seeds": [seed for seed, passes in found["noise"].items() if passes],
        "signals": arguments.signals,
        "signal_champions": passing["signals"],
        "passed": passed,
    }


def noise_passes(seed: int) -> bool:
    """Return whether a model of noise passes the gate as the first of its store."""
    return passes_gate(noise_file(seed))


def signal_passes(seed: int) -> bool:
    """Return whether a model of one weak signal passes the gate."""
    return passes_gate(signal_file(seed))


def passes_gate(file: StrangerFile) -> bool:
    """Train on all rows of a file, as `leadstream train` does, and ask the gate."""
    try:
        model = _model(*_read(file)[:2])
    except UserError:
        return False  # refused before there is a version
    return not gate.objections(model, None)


def table(data: Path) -> dict[str, Any]:
    """Return the figures of every file and what the product missed."""
    files = []
    for split in _splits(data):
        try:
            files.append(_compare(split))
        except UserError as error:
            refused = {"name": split.name, "refused": str(error), "rows": {}, "noise": split.noise}
            files.append(refused | {"missed": [] if split.noise else ["refused"]})
    return {"files": files, "passed": not any(file["missed"] for file in files)}


def _splits(data: Path) -> Iterator[SplitFile]:
    for file in all_files():
        older, options, used = _read(file, oldest=OLDER)
        newer, _, _ = _read(file, newest=NEWER)
        yield SplitFile(file.name, older, newer, options, used, file.noise)
    if (data / XEDUCATION.name).exists():
        mapping = load_mapping(MAPPINGS / "xeducation.toml")
        older, refused = read_table(data / XEDUCATION.name, mapping, oldest=OLDER)
        newer, _ = read_table(data / XEDUCATION.name, mapping, newest=NEWER)
        rows = len(older) + len(newer)
        own = specify(numbers=tuple(mapping.numbers), categories=tuple(mapping.categories))
        options = TrainOptions(horizon_days=None, specification=own, origins=mapping.origins())
        used = rows / (rows + len(refused))
        yield SplitFile("X Education", older, newer, options, used, noise=False)
    if (data / BANK.name).exists():
        bank, numbers, categories = bank_table(data / BANK.name)
        known = tuple(name for name in numbers if name != "duration")
        own = specify(numbers=known, categories=categories)
        cut = int(OLDER * len(bank))
        options = TrainOptions(horizon_days=None, specification=own)
        yield SplitFile("bank", bank[:cut], bank[cut:], options, 1.0, noise=False)


def _read(
    file: StrangerFile, *, oldest: float | None = None, newest: float | None = None
) -> tuple[pd.DataFrame, TrainOptions, float]:
    """Return the rows of a file, read as a CSV, with its options and the share of rows used."""
    with tempfile.TemporaryDirectory() as folder:
        path, mapping_path = Path(folder) / "leads.csv", Path(folder) / "leads.toml"
        file.rows.to_csv(path, index=False)
        mapping_path.write_text(file.mapping)
        mapping = load_mapping(mapping_path)
        rows, refused = read_table(path, mapping, oldest=oldest, newest=newest)
    own = specify(numbers=tuple(mapping.numbers), categories=tuple(mapping.categories))
    options = TrainOptions(horizon_days=None, specification=own, origins=mapping.origins())
    return rows, options, 1 - len(refused) / len(file.rows)


def _model(rows: pd.DataFrame, options: TrainOptions) -> Model:
    done = train(rows, options)
    return Model(done.artifact, {**done.manifest, "version": "1.0.0", "artifact": {"sha256": ""}})


def _compare(split: SplitFile) -> dict[str, Any]:
    model = _model(split.older, split.options)
    promoted = not gate.objections(model, None)
    columns = {
        name: split.newer[name].tolist()
        for name in split.newer.columns
        if name not in ("lead_id", "as_of", "converted")
    }
    stated = {PRODUCT: model.score(columns, split.newer["as_of"].to_numpy()).probability}
    stated |= _scikit_learn(split)
    labels = split.newer["converted"].to_numpy().astype(bool)
    return {
        "name": split.name,
        "noise": split.noise,
        "promoted": promoted,
        "used": split.used,
        "recipe": model.manifest["recipe"]["name"],
        "calibrator": model.manifest["calibration"]["name"],
        "rows": {name: _figures(p, labels) for name, p in stated.items()},
        "missed": _missed(stated, labels, promoted=promoted, noise=split.noise),
    }


def _figures(probability: Floats, labels: NDArray[np.bool_]) -> dict[str, float]:
    return {
        "roc_auc": roc_auc(probability, labels, np.arange(len(labels)))[0],
        "brier": float(np.mean((probability - labels) ** 2)),
        "ece": expected_calibration_error(probability, labels),
    }


def _missed(
    stated: dict[str, Floats], labels: NDArray[np.bool_], *, promoted: bool, noise: bool
) -> list[str]:
    """Return what the product missed: promotion of noise, or a provable loss to another."""
    if noise:
        return ["noise is promoted"] if promoted else []
    missed = [] if promoted else ["not promoted"]
    own, each = stated[PRODUCT], np.arange(len(labels))
    for name, other in stated.items():
        if name == PRODUCT:
            continue
        lost, error = auc_loss(other, own, labels)
        worse, spread = mean_of_groups((own - labels) ** 2 - (other - labels) ** 2, each)
        if lost > ERRORS * error:
            missed.append(f"ROC-AUC against {name}")
        if worse > ERRORS * spread:
            missed.append(f"Brier score against {name}")
    return missed


def _scikit_learn(split: SplitFile) -> dict[str, Floats]:
    """Return what scikit-learn states for the newer rows with its own means."""
    (X, y), (later, _) = _matrices(split)
    forest: Callable[[], Any] = lambda: RandomForestClassifier(  # noqa: E731
        n_estimators=100, max_depth=10, random_state=0, n_jobs=-1
    )
    models = {
        "forest": forest(),
        "forest, isotonic": CalibratedClassifierCV(forest(), method="isotonic", cv=5),
        "boosting": HistGradientBoostingClassifier(random_state=0),
    }
    return {name: model.fit(X, y).predict_proba(later)[:, 1] for name, model in models.items()}


def _matrices(split: SplitFile) -> list[tuple[Floats, NDArray[np.bool_]]]:
    """Return numbers with medians for holes, and categories as codes, of both halves."""
    frames = [_frame(rows, split) for rows in (split.older, split.newer)]
    numbers = frames[0].select_dtypes("number").columns
    texts = [name for name in frames[0].columns if name not in numbers]
    medians = frames[0][numbers].median().fillna(0)
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    encoder.fit(frames[0][texts].fillna(""))
    return [
        (
            np.column_stack(
                [frame[numbers].fillna(medians), encoder.transform(frame[texts].fillna(""))]
            ),
            rows["converted"].to_numpy().astype(bool),
        )
        for frame, rows in zip(frames, (split.older, split.newer), strict=True)
    ]


def _frame(rows: pd.DataFrame, split: SplitFile) -> pd.DataFrame:
    """Return the inputs of the product as columns, without the calendar."""
    columns: dict[str, Any] = {}
    for spec in split.options.specification.inputs:
        field, _, key = spec.name.partition(".")
        if spec.kind == "moment" or field not in rows:
            continue
        values = rows[field].tolist()
        own = [value.get(key) for value in values] if key else values
        columns[spec.name] = (
            pd.to_numeric(pd.Series(own), errors="coerce")
            if spec.kind == "number"
            else pd.Series(own, dtype=object)
        )
    return pd.DataFrame(columns)


def _print_table(result: dict[str, Any]) -> None:
    table = Table(title="On the newest 20 % of each file", title_justify="left")
    table.add_column("")
    for name in ("ROC-AUC", "Brier", "ECE", "rows used"):
        table.add_column(name, justify="right")
    for file in result["files"]:
        if "refused" in file:
            table.add_row(f"{file['name']}: refused", "", "", "", "")
            continue
        how = "serves" if file["promoted"] else "does not pass the gate"
        table.add_row(f"[bold]{file['name']}[/]", "", "", "", f"{file['used']:.0%}")
        for name, figures in file["rows"].items():
            label = f"{name} ({how})" if name == PRODUCT else name
            table.add_row(f"  {label}", *(f"{value:.3f}" for value in figures.values()), "")
        for missed in file["missed"]:
            table.add_row(f"  [red]missed: {missed}[/]", "", "", "", "")
    Console(highlight=False).print(table)


def _print_promotions(result: dict[str, Any]) -> None:
    print(
        f"Of {result['noise']} trainings on noise {result['noise_champions']} pass the gate "
        f"(bar: {NOISE_BAR:.0%}), seeds {result['noise_seeds']}."
    )
    print(
        f"Of {result['signals']} on a weak signal {result['signal_champions']} do "
        f"(bar: {SIGNAL_BAR:.0%})."
    )


if __name__ == "__main__":
    sys.exit(main())
