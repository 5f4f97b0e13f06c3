"""Scores a checkpoint on held-out splits:

avjax evaluate --config=configs/quickstart.py --checkpoint=runs/quickstart
[--split=valid] [--out=DIR]
avjax evaluate --config=... --sensitivity --out=DIR   the truth made worse: do metrics notice?
avjax evaluate --checkpoint=WORKDIR --robustness=pieces|portraits|prosody|speakers    of TAVID


avjax evaluate --config=... --checkpoint=WORKDIR --watch     every new checkpoint, as it appears
avjax evaluate --list        every metric, with its meaning
avjax evaluate --compare A B [C ...] [--out=DIR]    results beside each other, worst first
avjax evaluate --benchmarks  named benchmarks, with what papers report
avjax evaluate --benchmark=NAME --data=DIR --checkpoint=DIR    one of them
avjax evaluate --benchmark=NAME --data=DIR --generated=FOLDER[,...] --out=DIR    of any files

Writes results.json (summary, targets, recipes, one row an example) and report.html; prints the
table. A killed job goes on where it stopped. Examples that fail are listed, and the exit code is 3.
`--checkpoint` is a workdir, its checkpoints folder, or one checkpoint; one in a bucket (gs://...)
is copied here first, and the results go there.

`--config` is the workdir's own unless it is given. --robustness looks at one side of a TAVID
checkpoint (docs/tavid.md): long dialogues in pieces, voices of worse portraits, prosody under other
voices, seen and unseen speakers; OUT/robustness.CHECK.json, .txt and .png, OUT being
WORKDIR/robustness by default.

All devices share the examples, and all hosts that the job was started on (or --processes=N,
--shard=I/N; see launch/workers.py): each scores its share, and the last one merges the rows.
"""

import itertools
import sys

from absl import flags

from avjax.checkpoint import checkpoints, remote
from avjax.errors import PARTIAL, UserError
from avjax.hardware.accelerator import enable_compilation_cache
from avjax.storage import lock, paths
from eval import registry
from eval.benchmarks.named import declaration
from eval.robustness import job as robust
from eval.run import rows
from eval.sensitivity import job as sensitivity
from launch import flags as launch_flags
from launch import workers
from launch.jobs import evaluate as jobs
from launch.jobs import generate
from launch.jobs.scoring import compare, modes, named, robustness, watch


def workdir_of(checkpoint):
    """The workdir a checkpoint path lies in, as `paths.folder`: itself, or the parent of its
    `checkpoints` folder."""
    path = paths.folder(checkpoint)
    for folder in (path, path.parent):
        if folder.name == checkpoints.FOLDER:
            return folder.parent
    return path


def define_flags() -> None:
    """--config, --checkpoint, --split, --out, --list, and who shares the work."""
    launch_flags.define_config()
    workers.define_flags()
    flags.DEFINE_string("checkpoint", None, "Workdir, or one checkpoint.")
    flags.DEFINE_list("split", None, "Splits to score; default config.evaluate.splits.")
    flags.DEFINE_string("out", None, "Folder of the results; default: the workdir.")
    flags.DEFINE_string("vocoder", "", "What makes sound of mel, the truth's too: see avjax "
                        "generate; default config.evaluate.vocoder.")
    flags.DEFINE_string("geometry", "", "A Codec Avatar's decoder, whose vertices tell lips and "
                        "smiles: see avjax generate; default config.evaluate.geometry.")
    flags.DEFINE_string("lip_vertices", "", "Which of its vertices are lips, a JSON file (see "
                        "docs/listening.md); default config.evaluate.lip_vertices.")
    flags.DEFINE_string("networks", "", "Folder with the files of published networks that judge "
                        "what was made (see docs/metrics.md); metrics whose file is not there are "
                        "not measured; default config.evaluate.networks.")
    flags.DEFINE_bool("keep_media", False, "Keep what is seen and heard of every example, of what "
                      "models made and of the truth: OUT/media/SPLIT/VARIANT/ID.mp4 and .wav.")
    flags.DEFINE_string("ranked_by", "", "The metric that tells the best, the median and the worst "
                        "example; default the first of the table that is a mean over examples.")
    flags.DEFINE_bool("watch", False, "Score every checkpoint of the workdir as it appears, into "
                      "OUT/step_N, until the training's last step is scored; OUT/history.jsonl.")
    flags.DEFINE_float("watch_for", 3600.0, "Seconds without a new checkpoint after which --watch "
                       "ends.", lower_bound=0.0)
    flags.DEFINE_float("watch_every", 30.0, "Seconds between its looks.", lower_bound=0.1)
    flags.DEFINE_list("compare", None, "Folders of results, A B C ...: how the others differ from "
                      "the first, with paired intervals and p values; scores nothing.")
    flags.DEFINE_bool("sensitivity", False, "Score no checkpoint but the truth itself, altered by "
                      "known amounts: which metrics move the right way (docs/evaluation.md); needs "
                      "--out.")
    flags.DEFINE_enum("robustness", None, list(robust.CHECKS), "Look at one side of a TAVID "
                      "checkpoint: long dialogues in pieces, voices of worse portraits, prosody "
                      "under other voices, seen and unseen speakers (docs/tavid.md).")
    flags.DEFINE_list("portraits", [], "For --robustness=portraits: folders of pictures called "
                      "after speakers, FOLDER or NAME=FOLDER, as of people in profile.")
    flags.DEFINE_bool("benchmarks", False, "Print every named benchmark with its data, metrics and "
                      "the source of a paper's numbers, and nothing else.")
    flags.DEFINE_string("benchmark", "", "A named benchmark, whose splits and metrics are scored, "
                        "beside what a paper reports. --config is not needed then, and results go "
                        "to WORKDIR/benchmarks/NAME unless --out says otherwise.")
    flags.DEFINE_string("data", "", "What --benchmark is of: features of its corpus, or clips with "
                        "them in a folder features beside; of --generated also the clips alone, or "
                        "a folder of recordings.")
    flags.DEFINE_list("generated", [], "Folders of films and sounds that any system has generated, "
                      "called after the examples, FOLDER or NAME=FOLDER: they are scored, in place "
                      "of a checkpoint.")
    flags.DEFINE_string("generated_ids", "", "A CSV with the columns id and file: which file of "
                        "every folder of --generated is which example's.")
    flags.DEFINE_bool("list", False, "Print every metric with its meaning, and nothing else.")


def main(argv):
    del argv
    args = flags.FLAGS
    modes.check(args)
    if args.list:
        print(registry.markdown(), end="")
        return
    if args.compare is not None:
        launch_flags.check_local("--out", args.out)
        compare.run(args.compare, args.out)
        return
    if args.sensitivity:
        alter(args)
        return
    if args.benchmarks:
        print(declaration.listed(), end="")
        return
    benchmark = named_of(args)
    if args.generated:
        score_folders(args, benchmark)
        return
    if not args.checkpoint:
        raise UserError("no checkpoint given", expected="--checkpoint=DIR, a workdir of "
                                                        "avjax train or one checkpoint")
    launch_flags.check_local("--out", args.out)
    given = paths.folder(args.checkpoint)
    if not given.exists():
        raise UserError("no checkpoint here", where=args.checkpoint,
                        expected="a workdir of avjax train, or one "
                        "checkpoint of it", found="no such folder",
                        hint="check the path, or train first")
    workdir = workdir_of(given)
    config = args.config or generate.load_config(workdir)
    set_judges(args, config)
    out = args.out
    if args.robustness:
        look(args, config, given, workdir)
        return
    if benchmark:
        named.of_checkpoint(config, benchmark, args.data, args.split)
        out = out or str(workdir / "benchmarks" / benchmark.name)
        launch_flags.check_local("--out", out)
    results = paths.folder(out or workdir)
    if args.watch:
        watched(args, config, benchmark, given, workdir, results)
        return
    workers.spread("launch.evaluate", str(results))
    enable_compilation_cache()
    share = workers.share(args.shard)
    end(args, results, share, evaluate(args, config, benchmark, given, workdir, out, share))


def named_of(args) -> declaration.Named | None:
    """The benchmark of --benchmark. UserError: flags that need one another."""
    for flag, needed in (("data", "benchmark"), ("generated", "benchmark"), ("benchmark", "data"),
                         ("generated", "out"), ("generated_ids", "generated")):
        if getattr(args, flag) and not getattr(args, needed):
            raise UserError(f"--{flag} without --{needed}", where="command line",
                            expected="--benchmark=NAME --data=DIR with --checkpoint=DIR, or with "
                            "--generated=FOLDER --out=DIR",
                            hint="avjax evaluate --benchmarks lists benchmarks")
    return declaration.named(args.benchmark) if args.benchmark else None


def score_folders(args, benchmark: declaration.Named) -> None:
    """Scores --generated."""
    launch_flags.check_local("--out", args.out)
    results = paths.folder(args.out)
    workers.spread("launch.evaluate", str(results))
    enable_compilation_cache()
    share = workers.share(args.shard)
    with lock.hold(results / rows.lock_file(share), "the results in", results):
        merged = named.evaluate(benchmark, args.data, args.generated, out=args.out,
                                ids=args.generated_ids, networks=args.networks, splits=args.split,
                                ranked_by=args.ranked_by, share=share)
    end(args, results, share, merged)


def end(args, results, share: rows.Share, merged: dict | None) -> None:
    """Exits with what became of this process' share."""
    if merged is None:
        print(f"share {share[0]} of {share[1]} is scored; whoever finishes last writes the results "
              f"in {results}")
        workers.wait_for_others(results, share, args.shard, lambda: rows.not_begun(results, share))
    elif merged["failed"]:
        sys.exit(PARTIAL)


def set_judges(args, config) -> None:
    """What was given on the command line of config.evaluate."""
    for name in ("vocoder", "geometry", "lip_vertices", "networks"):
        if given := getattr(args, name):
            config.evaluate[name] = given


def alter(args) -> None:
    """Writes and prints what metrics say of the truth made worse."""
    launch_flags.check_given(args.config)
    if not args.out:
        raise UserError("no folder for the results of --sensitivity", expected="--out=DIR")
    launch_flags.check_local("--out", args.out)
    set_judges(args, args.config)
    benchmark, _ = jobs.open_benchmark(args.config, args.checkpoint or args.out)
    with lock.hold(paths.folder(args.out) / lock.RESULTS, "the results in", args.out):
        results = sensitivity.run(benchmark, args.out, args.split or args.config.evaluate.splits,
                                  max_examples=args.config.evaluate.max_examples)
    print(sensitivity.text(results), end="")
    print(f"results: {paths.folder(args.out) / sensitivity.NAME}.json, .txt, .png")


def look(args, config, given, workdir) -> None:
    """--robustness."""
    if paths.is_remote(workdir):
        raise UserError("a workdir of this machine is needed", where="--robustness",
                        found=f"--checkpoint={args.checkpoint}", hint="copy it here first")
    enable_compilation_cache()
    robustness.run(args.robustness, config, workdir, given,
                   paths.folder(args.out or workdir / robustness.FOLDER), splits=args.split,
                   portraits=args.portraits)


def watched(args, config, benchmark, given, workdir, results) -> None:
    """--watch: by this process alone. Exit code 3 where examples of a step failed."""
    if args.processes or args.shard or workers.share(None) != rows.WHOLE:
        raise UserError("one process watches, with all its devices", where="--watch",
                        hint="leave --processes and --shard out, or score one step by many: "
                        "--checkpoint=WORKDIR/checkpoints/STEP")
    if paths.is_remote(workdir) or given.parent.name == checkpoints.FOLDER:
        raise UserError("a workdir of this machine is needed", where="--watch",
                        found=f"--checkpoint={args.checkpoint}",
                        hint="mount the bucket as a folder, or leave the step out")
    enable_compilation_cache()
    if not watch.watch(config, workdir, results, splits=args.split, named=benchmark,
                       idle=args.watch_for, every=args.watch_every,
                       keep_media=args.keep_media, ranked_by=args.ranked_by):
        sys.exit(PARTIAL)


def evaluate(args, config, benchmark, given, workdir, out, share: rows.Share) -> dict | None:
    """This process' share of the examples, and the results where it is the last."""
    results = paths.folder(out or workdir)
    step = int(given.name) if given.name.isdigit() and given != workdir else None
    apart = paths.is_remote(results) and share != rows.WHOLE  # no process sees the others' copies
    if apart and not (results / rows.rows_file(share)).exists():
        (results / rows.rows_file(share)).write_bytes(b"")

    def score(merge: bool = True):
        with remote.at_hand(workdir, step) as here:
            return jobs.evaluate(config, here, splits=args.split, out=out, share=share,
                                 checkpoint=here if paths.is_remote(given) else given, merge=merge,
                                 keep_media=args.keep_media, ranked_by=args.ranked_by,
                                 named=benchmark)

    with lock.hold(results / rows.lock_file(share), "the results in", results):
        if not apart:
            return score()
        score(merge=False)  # its rows are in the bucket at the end
        with lock.hold(results / lock.RESULTS, "the results in", results, wait=jobs.PATIENCE):
            return score()


def joined(argv: list[str]) -> list[str]:
    """`--compare A B` as `--compare=A,B`: the flags' parser takes no positional arguments."""
    if "--compare" not in argv:
        return argv
    at = argv.index("--compare") + 1
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), argv[at:]))
    return [*argv[:at - 1], f"--compare={','.join(words)}", *argv[at + len(words):]]


if __name__ == "__main__":
    sys.argv = joined(sys.argv)
    define_flags()
    launch_flags.run(main, needs_config=False)
