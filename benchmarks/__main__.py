"""Speed of the chain on this machine: `make bench` writes reports/tables/benchmarks.csv.

Times are wall-clock of one process on all cores, medians of repeats where a repeat is cheap. The
machine's own speed is measured in the same run, and ratios are what to quote. Needs the files of
`make repro`. ``python -m benchmarks monte_carlo`` measures and prints one part only.
"""

import sys

import pandas as pd

from benchmarks import machine, monte_carlo, network, streaming
from crab import params, paths

COLUMNS = ("what", "value", "unit", "reference", "ratio")
PARTS = {"monte_carlo": monte_carlo.rows, "network": network.rows, "streaming": streaming.rows}


def main() -> None:
    settings = params.load()
    chosen = sys.argv[1:] or list(PARTS)
    calls = [params.choose("part", name, PARTS) for name in chosen]
    rows = machine.rows()
    for call in calls:
        rows += call(settings)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    if set(chosen) == set(PARTS):  # one run, one table
        target = paths.root() / "reports" / "tables" / "benchmarks.csv"
        target.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(target, index=False)
    print(frame.to_string(index=False, float_format=lambda v: f"{v:.4g}"))


if __name__ == "__main__":
    main()
