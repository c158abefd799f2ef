"""Our reasons against exact Shapley values: those of shap's TreeExplainer on the same forest.

    python -m benchmarks.reasons [--data ../shared/data/xeducation_leads.csv] [--json]

The audited forest, trained on the older four fifths, explains the newest leads by input field. shap
explains the same trees by the way they were grown (tree_path_dependent), the raw score of class 1,
without sampling; its values are added up by field. Path contributions are what models without a
fitted table have: S. Lundberg and others, "From local explanations to global understanding with
explainable AI for trees", Nature Machine Intelligence 2 (2020).
"""

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from features import specify
from leadstream.errors import UserError
from models.serve.explain import contributions
from models.serve.forest import pack
from models.serve.scorer import Model, fields_of
from models.train.training import TrainOptions, train
from producer.importer import read_table
from producer.mapping import load_mapping
from producer.simulator import SimulatedCrm
from producer.table import training_frame

DATA = Path(__file__).parents[2] / "shared" / "data" / "xeducation_leads.csv"
MAPPING = Path(__file__).parents[1] / "producer" / "mappings" / "xeducation.toml"
SIMULATION_START = 1_672_531_200_000  # 2023-01-01
OLDER, NEWER = 0.8, 0.2
MAX_EXPLAINED = 2_000  # shap takes some milliseconds for a lead
DISPLAYED = {
    "leads": "leads explained",
    "fields": "fields of the forest",
    "same_first": "same first reason",
    "overlap": "of the three strongest, in both (mean)",
    "same_three": "same three strongest, in any order",
    "correlation": "rank correlation of all contributions (mean)",
    "path_same_first": "path contributions: same first reason",
    "path_same_three": "path contributions: same three strongest",
    "error": "base + our points - probability, at most",
    "error_shap": "base + shap's - raw score, at most",
}

Floats = NDArray[np.float64]


def xeducation(path: Path) -> dict[str, Any]:
    """Trained on the older four fifths of the X Education leads, explained on the newest fifth."""
    mapping = load_mapping(MAPPING)
    own = specify(numbers=tuple(mapping.numbers), categories=tuple(mapping.categories))
    options = TrainOptions(
        horizon_days=None, specification=own, origins=mapping.origins(), recipe="audited"
    )
    return compare(
        read_table(path, mapping, oldest=OLDER)[0],
        read_table(path, mapping, newest=NEWER)[0],
        options,
    )


def simulator(leads: int = 6_000) -> dict[str, Any]:
    """The same on the changes of a simulated CRM, in the order of time."""
    crm = SimulatedCrm(3, start=SIMULATION_START, leads=leads)
    changes = [
        change
        for change in crm.changes()
        if change.record and change.truth and not change.truth.applied
    ]
    table = training_frame(
        [change.lead_id for change in changes],
        [change.record["occurred_at"] for change in changes if change.record],
        [change.state or {} for change in changes],
        [bool(change.truth and change.truth.converts) for change in changes],
    ).sort_values("as_of", kind="stable")
    cut = int(len(table) * OLDER)
    return compare(table[:cut], table[cut:], TrainOptions(horizon_days=30, recipe="audited"))


def compare(older: pd.DataFrame, newer: pd.DataFrame, options: TrainOptions) -> dict[str, Any]:
    """Train on the older leads, explain some of the newer ones both ways, and say how far the two
    agree.
    """
    import shap  # noqa: PLC0415  # an extra

    done = train(older, options)
    artifact = done.artifact
    model = Model(artifact, {**done.manifest, "version": "0.0.0", "artifact": {"sha256": ""}})
    displayed = newer.iloc[
        np.linspace(0, len(newer) - 1, min(len(newer), MAX_EXPLAINED)).astype(np.intp)
    ]
    columns = {
        name: displayed[name].tolist()
        for name in displayed.columns
        if name not in ("lead_id", "as_of", "converted")
    }
    as_of = displayed["as_of"].to_numpy()
    scores = model.score(columns, as_of, reasons=len(model.fields))
    values = artifact["features"].transform(columns, as_of).values
    rows = (
        artifact["feature_selector"]
        .transform(artifact["scaler"].transform(values))
        .astype(np.float32)
    )
    forest, (_, groups) = pack(artifact["model"]), fields_of(model.specification, model.features)
    ours, path = (
        contributions(forest, groups, table).take(forest.leaves(rows))
        for table in (artifact["reasons"], None)
    )
    explainer = shap.TreeExplainer(
        artifact["model"], feature_perturbation="tree_path_dependent", model_output="raw"
    )
    exact = explainer.shap_values(rows)[:, :, 1]
    return {
        "leads": len(displayed),
        "fields": len(model.fields),
        **agreement(ours, exact @ groups),
        **{f"path_{key}": value for key, value in agreement(path, exact @ groups).items()},
        "error": float(
            np.abs(
                scores.base_probability + scores.strongest.points.sum(axis=1) - scores.probability
            ).max()
        ),
        "error_shap": float(
            np.abs(explainer.expected_value[1] + exact.sum(axis=1) - scores.raw).max()
        ),
    }


def agreement(ours: Floats, exact: Floats) -> dict[str, float]:
    """How far two sets of contributions (n, k) name the same features; strength is the absolute
    contribution.
    """
    strongest = [np.argsort(-np.abs(one), axis=1, kind="stable")[:, :3] for one in (ours, exact)]
    shared = (strongest[0][:, :, None] == strongest[1][:, None, :]).any(axis=2).sum(axis=1)
    ranks = [rankdata(one, axis=1) for one in (ours, exact)]
    spread = [one - one.mean(axis=1, keepdims=True) for one in ranks]
    norms = np.sqrt((spread[0] ** 2).sum(axis=1) * (spread[1] ** 2).sum(axis=1))
    return {
        "same_first": float((strongest[0][:, 0] == strongest[1][:, 0]).mean()),
        "overlap": float(shared.mean() / strongest[0].shape[1]),
        "same_three": float((shared == strongest[0].shape[1]).mean()),
        "correlation": float(((spread[0] * spread[1]).sum(axis=1) / norms).mean()),
    }


def main() -> int:
    """Run both and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description="Our reasons against exact Shapley values.")
    parser.add_argument("--data", type=Path, default=DATA, help="xeducation_leads.csv")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    if find_spec("shap") is None:
        console.print("shap is not installed here: pip install 'leadstream\\[bench]'")
        return 1
    if not arguments.data.exists():
        console.print(f"{arguments.data} is not there: give --data")
        return 1
    try:
        results = {"X Education": xeducation(arguments.data), "simulator": simulator()}
    except UserError as error:
        console.print(str(error))
        return 1
    if arguments.json:
        print(json.dumps(results, indent=2))
        return 0
    table = Table(title="Reasons by field against shap.TreeExplainer, same forest")
    table.add_column("")
    for name in results:
        table.add_column(name, justify="right")
    for key, label in DISPLAYED.items():
        table.add_row(label, *(_format(key, result[key]) for result in results.values()))
    console.print(table)
    return 0


def _format(key: str, value: float) -> str:
    match key:
        case "leads" | "fields":
            return f"{value:,}"
        case "error" | "error_shap":
            return f"{value:.0e}"
        case "correlation":
            return f"{value:.3f}"
        case _:
            return f"{100 * value:.1f} %"


if __name__ == "__main__":
    sys.exit(main())
