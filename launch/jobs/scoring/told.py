"""What an evaluation prints at its end."""

import pathlib

from eval.report import page, tables
from eval.run import failed, ranked, runner


def results_of(results: dict, benchmark, out: pathlib.Path, root: pathlib.Path,
               *remarks: str) -> None:
    """The tables, `remarks`, what was not measured, ranked or failed, and where the files are:
    results in `out`, the report in `root`."""
    print(tables.table(results))
    for remark in remarks:
        print(remark)
    for names, need in benchmark.not_measured.items():
        print(f"not measured: {names}; needs: {need}")
    for line in (*ranked.lines(results), *failed.lines(results)):
        print(line)
    print(f"results: {out / runner.RESULTS_FILE}\nreport:  {root / page.REPORT_FILE}")
