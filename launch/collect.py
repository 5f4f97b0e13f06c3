"""Collects the results of many runs into one table:
avjax collect --workdir=runs/ablations
avjax collect RUN RUN... [--by=system.fusion] [--metrics=F1_lips,BC_h] [--out=FOLDER]

Of a sweep (--workdir of avjax submit --sweep), or of any folders with results.json, each a run or a
folder of runs. A row is what was swept; numbers are means over the seeds with their standard
deviation, beside the baselines, and the difference from a reference row, seed by seed. Runs without
results are named. Writes collected.txt, .json, .csv, .html (with plots, needs no other file) and a
.png a split into --out; what is printed is picked by --format.

Rows: the axes of the sweep except --over; of folders, their names without the seed, or the fields
of their configs that --by names.
"""

import itertools
import json
import sys

from absl import flags

from avjax.errors import UserError
from eval.sweep import collect, files, members, text
from launch import flags as launch_flags

FORMATS = {"text": text.text, "json": lambda table: json.dumps(table, indent=1),
           "csv": text.as_csv}


def define_flags() -> None:
    """What is collected, and how it is shown."""
    flags.DEFINE_string("workdir", None, "A sweep's workdir, or a folder of runs.")
    flags.DEFINE_list("by", [], "Keys of the runs' configs that make a row, e.g. system.fusion; "
                                "default the sweep's axes.")
    flags.DEFINE_list("over", ["seed"], "Axes that are averaged over.")
    flags.DEFINE_list("metrics", [], "Names as in docs/metrics.md; default all.")
    flags.DEFINE_list("split", [], "Splits; default all.")
    flags.DEFINE_list("variant", [], "What the model made, where it has several tasks; default "
                                     "all.")
    flags.DEFINE_bool("baselines", True, "Show the truth and other baselines beside.")
    flags.DEFINE_string("reference", "", "The row that others are compared with; default the "
                                         "first.")
    flags.DEFINE_enum("pairs", "seeds", collect.PAIRS, "What a difference is paired by: seeds "
                      "(chance is another training), or examples (chance is another sentence).")
    flags.DEFINE_string("out", None, "Folder of collected.*; default the workdir, none for runs.")
    flags.DEFINE_enum("format", "text", list(FORMATS), "What is printed.")


def main(runs: list[str]) -> None:
    args = flags.FLAGS
    folders = [args.workdir] * bool(args.workdir) + runs
    if not folders:
        raise UserError("nothing to collect", expected="--workdir=DIR of a sweep, or folders of "
                        "runs", hint="avjax collect --help")
    table = collect.collect(members.find(folders, args.by), over=args.over, metrics=args.metrics,
                            splits=args.split, variants=args.variant, baselines=args.baselines,
                            reference=args.reference, pairs=args.pairs)
    if out := args.out or args.workdir:
        name = folders[0].rstrip("/").rpartition("/")[2]
        print("\n".join(files.write(table, out, name)), file=sys.stderr)
    print(FORMATS[args.format](table).rstrip("\n"))


if __name__ == "__main__":
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    del sys.argv[1:1 + len(words)]  # the flags' parser takes no positional arguments
    define_flags()
    launch_flags.run(lambda argv: main(words), needs_config=False)
