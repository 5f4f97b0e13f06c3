"""Asks people: a blinded page for raters, and what their answers say.

  avjax study export --results=RUN [--results=RUN ...] [--media=NAME=FOLDER ...]
  --kind=mos|pairwise --out=DIR
  avjax study score --key=DIR/key.json RATINGS.csv ...

`export` writes DIR/page, a folder to hand to raters, and DIR/key.json, which they must not get.
Conditions are the variants in an evaluation's kept media (avjax evaluate --keep_media), and any
folders of films or sounds whose files have the same names. A rater opens page/index.html in a
browser, offline, gives the number that you gave to them, and sends back the CSV file that the page
saves. `score` prints mean opinions with t intervals, or preferences with a sign test; agreement;
who missed attention checks; and how many raters would find a difference of --difference.
"""

import itertools
import json
import sys

from absl import flags

from avjax.errors import UserError
from avjax.storage import paths
from eval.run.rows import clean
from eval.study import design, export, ratings, score, stimuli, text
from launch import flags as launch_flags

COMMANDS = {"export": {"results", "media", "kind", "out", "split", "variant", "medium", "items",
                       "common", "raters", "design", "question", "ties", "reference", "checks",
                       "catch", "title", "instructions", "seed"},
            "score": {"key", "allow_missed", "difference", "power", "json", "out"}}


def define_flags() -> None:
    """Flags of both commands."""
    flags.DEFINE_multi_string("results", [], "export: folder of an evaluation with kept media; may "
                              "be repeated.")
    flags.DEFINE_multi_string("media", [], "export: NAME=FOLDER, a condition's films or sounds; "
                              "may be repeated.")
    flags.DEFINE_enum("kind", "mos", export.KINDS, "export: opinions from 1 to 5, or which of two "
                      "is better.")
    flags.DEFINE_string("out", None, "export: a new folder. score: file for the report as JSON.")
    flags.DEFINE_list("split", [], "export: splits of --results; default all.")
    flags.DEFINE_list("variant", [], "export: variants of --results; default all.")
    flags.DEFINE_enum("medium", "", ["", "video", "audio"], "export: films or sounds alone; "
                      "default the film of what is there as both.")
    flags.DEFINE_integer("items", 0, "export: items to judge, drawn by the seed; 0 for all.",
                         lower_bound=0)
    flags.DEFINE_bool("common", False, "export: leave out items that not all conditions have.")
    flags.DEFINE_integer("raters", 24, "export: raters to make orders for.", lower_bound=1)
    flags.DEFINE_enum("design", "full", list(design.DESIGNS), "export: " + "; ".join(
        f"{name}: {what}" for name, what in design.DESIGNS.items()) + ".")
    flags.DEFINE_multi_string("question", [], "export: NAME=TEXT, what is asked of every "
                              "recording; may be repeated; default one on the whole.")
    flags.DEFINE_bool("ties", False, "export: pairs may be answered by 'No difference'.")
    flags.DEFINE_string("reference", "", "export: the condition that all pairs are with; default "
                                         "all pairs.")
    flags.DEFINE_integer("checks", 2, "export: attention checks that show what to answer.",
                         lower_bound=0)
    flags.DEFINE_multi_string("catch", [], "export: a further attention check of your own media: "
                              "FILE=1,2, or LEFT,RIGHT=A of pairs; may be repeated.")
    flags.DEFINE_string("title", "Listening and viewing test", "export: heading of the page.")
    flags.DEFINE_string("instructions", "", "export: what raters are told; default by --kind.")
    flags.DEFINE_integer("seed", 0, "export: of orders and names.", lower_bound=0)
    flags.DEFINE_string("key", None, "score: the key.json of the study.")
    flags.DEFINE_integer("allow_missed", 0, "score: attention checks that a rater may miss.",
                         lower_bound=0)
    flags.DEFINE_float("difference", 0.2, "score: what to find, of mean opinions, or of the rates "
                       "at which one and the other are preferred.", lower_bound=1e-6)
    flags.DEFINE_float("power", 0.8, "score: with which chance.", lower_bound=0.06,
                       upper_bound=0.9999)
    flags.DEFINE_bool("json", False, "score: print the report as JSON.")


def main(words: list[str]) -> None:
    args = flags.FLAGS
    command, files = (words or [""])[0], words[1:]
    if command not in COMMANDS or files and command == "export":
        raise UserError("unknown command", expected="export, or score RATINGS.csv ...",
                        found=" ".join(words) or "none", hint="avjax study --help")
    for name in COMMANDS["export" if command == "score" else "score"] - COMMANDS[command]:
        if args[name].present:
            raise UserError(f"--{name} means nothing here", where=f"avjax study {command}",
                            hint="leave it out")
    launch_flags.check_local("--out", args.out)
    if command == "export":
        write(args)
        return
    if not args.key:
        raise UserError("--key is missing", expected="the key.json of the study")
    key = ratings.read_key(args.key)
    report = clean(score.score(key, ratings.read(key, files), allowed=args.allow_missed,
                               difference=args.difference, power=args.power))
    written = json.dumps(report, indent=1)
    if args.out:
        paths.write_text(paths.folder(args.out), written + "\n")
    print(written if args.json else text.text(report))


def write(args) -> None:
    if not args.out:
        raise UserError("--out is missing", expected="a new folder")
    conditions = stimuli.conditions(args.results, args.media, args.split, args.variant,
                                    args.medium)
    items = stimuli.items(conditions, args.items, args.common, args.seed)
    key = export.write(args.out, conditions, items, kind=args.kind,
                       asked=export.questions(args.question, args.kind), ties=args.ties,
                       reference=args.reference, layout=args.design, raters=args.raters,
                       seed=args.seed, instructed=args.checks, catch=args.catch, title=args.title,
                       told=args.instructions)
    print(f"study {key['study']}: {len(items)} items, conditions {', '.join(conditions)}; "
          f"{len(key['orders'][0])} recordings a rater, orders for {args.raters}\n"
          f"for raters: {args.out}/{export.PAGE}/index.html with the folder beside it\n"
          f"keep back:  {args.out}/{export.KEY}")


if __name__ == "__main__":
    found = list(itertools.takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    # files may also come after flags
    found += [word for word in sys.argv[1 + len(found):] if word.endswith(".csv")
              and not word.startswith("-")]
    sys.argv[1:] = [word for word in sys.argv[1:] if word not in found]
    define_flags()
    launch_flags.run(lambda argv: main(found), needs_config=False)
