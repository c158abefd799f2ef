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


def read_training_file(
    args: argparse.Namespace, mapping: "LeadMapping"
) -> tuple["pd.DataFrame", dict[str, Any]]:
    """Return the table to train on and the report on the file as JSON; print the report.

    Raises UserError if more than the share `--max-refused` of the rows was refused.
    """
    from producer.importer import read_decided, table_of_rows
    from producer.refusals import report_of

    path = args.csv or args.parquet
    results = read_decided(path, mapping, parquet=args.parquet is not None)
    report = report_of(results, mapping)
    as_json = {"refused": refused_lines(results), "file": report.as_json()}
    print_report(path, report)
    if report.undecided:
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
    return table_of_rows(results, oldest=args.oldest), as_json
