"""The proof on real data; see docs/models.md."""

from pathlib import Path

import numpy as np
import pandas as pd

DATA = Path(__file__).parents[2] / "shared" / "data"
XEDUCATION, BANK = DATA / "xeducation_leads.csv", DATA / "bank_additional_full.csv"
BANK_START = 1_209_600_000_000  # May 2008; the file has no times of day, so a row is a minute


def bank_table(path: Path) -> tuple[pd.DataFrame, tuple[str, ...], tuple[str, ...]]:
    """The calls to bank customers in their order as a training table, with the names of the numbers and categories."""
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
