"""Scores a checkpoint on held-out splits:

avjax evaluate --config=configs/quickstart.py --checkpoint=runs/quickstart
[--split=valid] [--out=DIR]
avjax evaluate --list        every metric, with its meaning

Writes results.json (summary, targets, recipes, one row an example) and report.html; prints the
table. A killed job goes on where it stopped. `--checkpoint` is a workdir, its checkpoints folder,
or one checkpoint; one in a bucket (gs://...) is copied here first, and the results go there.
"""

from absl import flags

from avjax.checkpoint import checkpoints, remote
from avjax.errors import UserError
from avjax.hardware.accelerator import enable_compilation_cache
from avjax.storage import lock, paths
from eval import registry
from launch import flags as launch_flags
from launch.jobs import evaluate as jobs


def workdir_of(checkpoint):
    """The workdir a checkpoint path lies in, as `paths.folder`: itself, or the parent of its
    `checkpoints` folder."""
    path = paths.folder(checkpoint)
    for folder in (path, path.parent):
        if folder.name == checkpoints.FOLDER:
            return folder.parent
    return path


def define_flags() -> None:
    """--config, --checkpoint, --split, --out, --list."""
    launch_flags.define_config()
    flags.DEFINE_string("checkpoint", None, "Workdir, or one checkpoint.")
    flags.DEFINE_list("split", None, "Splits to score; default config.evaluate.splits.")
    flags.DEFINE_string("out", None, "Folder of the results; default: the workdir.")
    flags.DEFINE_bool("list", False, "Print every metric with its meaning, and nothing else.")


def main(argv):
    del argv
    args = flags.FLAGS
    if args.list:
        print(registry.markdown(), end="")
        return
    launch_flags.check_given(args.config)
    if not args.checkpoint:
        raise UserError("no checkpoint given", expected="--checkpoint=DIR, a workdir of "
                                                        "launch.train or one checkpoint")
    launch_flags.check_local("--out", args.out)
    given = paths.folder(args.checkpoint)
    if not given.exists():
        raise UserError("no checkpoint here", where=args.checkpoint,
                        expected="a workdir of launch.train, or one "
                        "checkpoint of it", found="no such folder",
                        hint="check the path, or train first")
    enable_compilation_cache()
    workdir = workdir_of(given)
    step = int(given.name) if given.name.isdigit() and given != workdir else None
    results = paths.folder(args.out or workdir)
    with lock.hold(results / lock.RESULTS, "the results in",
                   results), remote.at_hand(workdir, step) as here:
        jobs.evaluate(args.config, here, splits=args.split, out=args.out,
                      checkpoint=here if paths.is_remote(given) else given)


if __name__ == "__main__":
    define_flags()
    launch_flags.run(main, needs_config=False)
