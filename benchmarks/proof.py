"""One table of proof: what the probabilities are worth on leads that came later, on data that
nobody here wrote.

    python -m benchmarks.proof [--data ../shared/data] [--json]

Next to each: the raw score of the same trees, and that score by the audited formula. Bars that are
missed are said so, and the exit code is 1. The simulator is judged by its hidden truth.
docs/reference/models.md holds the last table.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from features import specify
from leadstream.errors import UserError
from models.evaluate import legacy_sigmoid, metrics
from models.monitor import recent_calibration
from models.serve.scorer import Model, Scores
from models.train import candidates
from models.train.table import check_table, periods
from models.train.training import TrainOptions, train
from producer.importer import read_table
from producer.mapping import LeadMapping, load_mapping
from producer.simulator import SimulatedChange, SimulatedCrm
from producer.table import training_frame

DATA = Path(__file__).parents[2] / "shared" / "data"
XEDUCATION, BANK = DATA / "xeducation_leads.csv", DATA / "bank_additional_full.csv"
MAPPINGS = Path(__file__).parents[1] / "producer" / "mappings"
BANK_START = 1_209_600_000_000  # May 2008; the file has no times of day, so a row is a minute
SIMULATION_START = 1_672_531_200_000  # 2023-01-01
LATE = 500
BARS = {
    "X Education": {"roc_auc": 0.885, "ece": 0.04, "brier": 0.13},
    "bank": {"ece": 0.05, "brier": 0.14},
    "simulator": {"ece": 0.02},
}
COLUMNS = {"roc_auc": "ROC-AUC", "brier": "Brier", "ece": "ECE"}

Floats = NDArray[np.float64]
ImportedRow = dict[str, Any]


def bank_table(path: Path) -> tuple[pd.DataFrame, tuple[str, ...], tuple[str, ...]]:
    """The calls to bank customers in their order as a training table, with the names of the numbers
    and categories.
    """
    calls = pd.read_csv(path, sep=";")
    sold = (calls.pop("y") == "yes").to_numpy()
    numbers = tuple(calls.select_dtypes("number").columns)
    categories = tuple(name for name in calls.columns if name not in numbers)
    moments = BANK_START + 60_000 * np.arange(len(calls), dtype=np.int64)
    table = pd.DataFrame(
        {
            "lead_id": [f"call-{i:06}" for i in range(len(calls))],
            "as_of": moments,
            "created_at": moments,
            "numbers": calls[list(numbers)].to_dict("records"),
            "categories": calls[list(categories)].to_dict("records"),
            "converted": sold,
        }
    )
    return table, numbers, categories


def xeducation(path: Path) -> list[ImportedRow]:
    """Trained on the older four fifths, judged on the newest, by both recipes and with and without
    Last Activity.
    """
    rows = []
    for name in ("xeducation.toml", "xeducation_activity.toml"):
        mapping = load_mapping(MAPPINGS / name)
        fields = "own fields" if name == "xeducation.toml" else "own fields and Last Activity"
        for recipe in ("best", "audited"):
            scores, labels, used = _trained(path, mapping, recipe)
            what = f"X Education, {fields}, {'proposed' if recipe == 'best' else '--recipe'} {used}"
            rows += _rows("X Education", what, scores.probability, scores.raw, labels)
    return rows


def _trained(
    path: Path, mapping: LeadMapping, recipe: str
) -> tuple[Scores, NDArray[np.bool_], str]:
    older, _ = read_table(path, mapping, oldest=0.8)
    newer, _ = read_table(path, mapping, newest=0.2)
    own = specify(numbers=tuple(mapping.numbers), categories=tuple(mapping.categories))
    model = _model(
        older,
        TrainOptions(
            horizon_days=None, specification=own, recipe=recipe, origins=mapping.origins()
        ),
    )
    return _scores(model, newer), newer["converted"].to_numpy(), model.manifest["recipe"]["name"]


def bank(path: Path) -> list[ImportedRow]:
    """The audited recipe in time, labels 500 rows late: grown again each fifth, and with trees
    never grown again.
    """
    table, numbers, categories = bank_table(path)
    table = check_table(table, 1, 1)
    clean = specify(
        numbers=tuple(name for name in numbers if name != "duration"), categories=categories
    )
    cut, cumulative = periods(table, 5)
    folds = [
        candidates.fit_fold("audited", cumulative[i - 1], cut[i], clean, 0) for i in range(1, 5)
    ]
    again = candidates.concat(folds)
    frozen = [folds[1].scored, *(folds[2].fitted.score(part) for part in cut[3:])]
    never = candidates.ScoredRows(*map(np.concatenate, zip(*frozen, strict=True)))
    rows = []
    for what, (raw, labels, *_), start in (
        ("grown again each fifth, newest 4/5", again, 0),
        ("trees of the oldest 3/5, newest 2/5", never, len(cut[2].labels)),
    ):
        for method in recent_calibration.METHODS:
            followed = recent_calibration.simulate(raw, labels, start, LATE, method=method)
            evaluated = _rows(
                "bank", f"bank, {what}, {method}", followed, raw[start:], labels[start:]
            )
            rows += evaluated if method == recent_calibration.METHODS[-1] else evaluated[:1]
    return rows


def simulator(leads: int = 10_000) -> tuple[list[ImportedRow], ImportedRow]:
    """Trained on the older changes of a simulated CRM, judged on the newest fifth by the true
    probabilities.
    """
    crm = SimulatedCrm(3, start=SIMULATION_START, leads=leads)
    # After a year no lead arrives any more: a CRM that only grows old is no CRM to be judged by.
    until = SIMULATION_START + 365 * 86_400_000
    changes = [
        change for change in crm.changes(until=until) if change.truth and not change.truth.applied
    ]
    cut = int(len(changes) * 0.8)
    older, newer = _frame(changes[:cut]), _frame(changes[cut:])
    model = _model(older, TrainOptions(horizon_days=30, recipe="best"))
    scores = _scores(model, newer)
    truth = np.array([change.truth.probability for change in changes[cut:] if change.truth])
    labels = newer["converted"].to_numpy()
    rows = _rows(
        "simulator",
        f"simulator, proposed {model.manifest['recipe']['name']}",
        scores.probability,
        scores.raw,
        labels,
    )
    for row, stated in zip(
        rows, (scores.probability, scores.raw, legacy_sigmoid(scores.raw)), strict=True
    ):
        row["ece"] = _distance(stated, truth)
        row["met"] = _met("simulator", row) if row["met"] is not None else None
    inside, width = _coverage(scores, labels), scores.high - scores.low
    complete = scores.coverage == 1.0
    summary = {
        "bins": inside,
        "width_complete": float(width[complete].mean()),
        "width_incomplete": float(width[~complete].mean()),
        "confidence_complete": float(scores.confidence[complete].mean()),
        "confidence_incomplete": float(scores.confidence[~complete].mean()),
    }
    return rows, summary


def _coverage(scores: Scores, labels: NDArray[np.bool_]) -> list[ImportedRow]:
    """By tenths of the stated probability: mean interval, realised rate, whether its 99 % range
    meets the interval.
    """
    order = np.argsort(scores.probability, kind="stable")
    bins = []
    for part in np.array_split(order, 10):
        low, high, rate = (
            float(values[part].mean()) for values in (scores.low, scores.high, labels)
        )
        drawn = (labels[part].sum() + 1) / (len(part) + 2)  # so that a rate of 0 has an error, too
        error = 2.576 * float(np.sqrt(drawn * (1 - drawn) / len(part)))
        bins.append(
            {"low": low, "rate": rate, "high": high, "inside": low - error <= rate <= high + error}
        )
    return bins


def _distance(stated: Floats, truth: Floats) -> float:
    """As the ECE over 15 bins, with the true probability for the outcome."""
    inside = np.minimum((stated * 15).astype(np.intp), 14)
    gaps = np.bincount(inside, weights=stated - truth, minlength=15)
    return float(np.abs(gaps).sum() / len(stated))


def _model(table: pd.DataFrame, options: TrainOptions) -> Model:
    done = train(table, options)
    return Model(done.artifact, {**done.manifest, "version": "0.0.0", "artifact": {"sha256": ""}})


def _scores(model: Model, table: pd.DataFrame) -> Scores:
    columns = {
        name: table[name].tolist()
        for name in table.columns
        if name not in ("lead_id", "as_of", "converted")
    }
    return model.score(columns, table["as_of"].to_numpy())


def _frame(changes: Iterable[SimulatedChange]) -> pd.DataFrame:
    changes = list(changes)
    return training_frame(
        [change.lead_id for change in changes],
        [(change.record or {})["occurred_at"] for change in changes],
        [change.state or {} for change in changes],
        [bool(change.truth and change.truth.converts) for change in changes],
    )


def _rows(
    data: str, name: str, probability: Floats, raw: Floats, labels: NDArray[np.bool_]
) -> list[ImportedRow]:
    rows = []
    named = (
        (name, probability),
        ("  the raw score", raw),
        ("  by the audited formula", legacy_sigmoid(raw)),
    )
    for what, stated in named:
        evaluated = metrics(stated, labels, 0.5)
        row: ImportedRow = {"name": what, **{key: evaluated[key] for key in COLUMNS}}
        row["met"] = _met(data, row) if what == name else None
        rows.append(row)
    return rows


def _met(data: str, row: ImportedRow) -> bool:
    return all(
        row[key] >= bar if key == "roc_auc" else row[key] <= bar for key, bar in BARS[data].items()
    )


def main() -> int:
    """Run all three and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description="What the probabilities are worth on later leads.")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder with the two files")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    try:
        simulated, summary = simulator()
        rows = [
            *xeducation(arguments.data / XEDUCATION.name),
            *bank(arguments.data / BANK.name),
            *simulated,
        ]
    except UserError as error:
        console.print(str(error))
        return 1
    if arguments.json:
        print(json.dumps({"rows": rows, "simulator": summary}, indent=2))
        return 0 if all(row["met"] is not False for row in rows) else 1
    table = Table(title="On leads that came after those the model learnt from")
    table.add_column("")
    for label in (*COLUMNS.values(), "bars"):
        table.add_column(label, justify="right")
    for row in rows:
        mark = {None: "", True: "met", False: "missed"}[row["met"]]
        table.add_row(row["name"], *(f"{row[key]:.3f}" for key in COLUMNS), mark)
    console.print(table)
    for data, bars in BARS.items():
        console.print(
            f"bars, {data}: " + ", ".join(f"{COLUMNS[key]} {bar:g}" for key, bar in bars.items())
        )
    console.print("simulator, mean interval and realised rate by tenths of the stated probability:")
    for one in summary["bins"]:
        mark = "within its sampling error" if one["inside"] else "outside"
        console.print(f"  {one['low']:.3f} .. {one['high']:.3f}  {one['rate']:.3f}  {mark}")
    console.print(
        f"width where all fields are there {summary['width_complete']:.4f}, where some are missing "
        f"{summary['width_incomplete']:.4f}; confidence {summary['confidence_complete']:.3f} and "
        f"{summary['confidence_incomplete']:.3f}"
    )
    return 0 if all(row["met"] is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
