"""The file that `leadstream train` reads: its leads, and the report before training starts."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from leadstream.cli.file_report import print_report, refused_lines
from leadstream.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from producer.mapping import LeadMapping


_WHY = {
    "young": "are younger than the horizon at the newest moment of the file",
    "undated": "converted, but the file does not say when",
}


def read_training_file(
    args: argparse.Namespace, mapping: "LeadMapping", horizon_days: float | None
) -> tuple["pd.DataFrame", dict[str, Any]]:
    """Return the table to train on and the report on the file as JSON; print the report.

    Raises UserError if more than the share `--max-refused` of the rows was refused.
    """
    from producer.importer import labeled_table, read_decided
    from producer.refusals import report_of

    path = args.csv or args.parquet
    parquet = args.parquet is not None
    results = read_decided(path, mapping, parquet=parquet, horizon_days=horizon_days)
    report = report_of(results, mapping)
    as_json = {"refused": refused_lines(results), "file": report.as_json()}
    print_report(path, report)
    if report.undecided and horizon_days is None:
        print(
            f"{path.name}: left out: {report.undecided:,} of {report.rows:,} rows without an "
            "outcome",
            file=sys.stderr,
        )
    if report.too_many(args.max_refused):
        if args.json:
            print(json.dumps({"version": None, "promoted": False, **as_json}, indent=2))
        raise UserError(
            f"training stops: {report.refused_rows:,} of {report.rows:,} rows of {path.name} were "
            f"refused, more than --max-refused {args.max_refused:g} allows"
        )
    labeled = labeled_table(results, horizon_days, oldest=args.oldest)
    left_out = {"young": labeled.labels.young, "undated": labeled.labels.undated}
    for key, why in _WHY.items():
        if left_out[key]:
            print(f"{path.name}: left out: {left_out[key]:,} rows that {why}", file=sys.stderr)
    return labeled.table, {**as_json, "left_out": left_out}
