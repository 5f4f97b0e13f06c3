"""Scores a checkpoint on held-out splits:

python -m launch.evaluate --config=configs/quickstart.py --checkpoint=runs/quickstart
[--split=valid] [--out=DIR]

Writes results.json (summary, targets, recipes, one row an example) and report.html; prints the
table. A killed job goes on where it stopped. `--checkpoint` is a workdir, its checkpoints folder,
or one checkpoint; one in a bucket (gs://...) is copied here first, and the results go there.
"""

import pathlib

from absl import flags

from avjax.checkpoint import checkpoints
from avjax.errors import UserError
from avjax.hardware.accelerator import enable_compilation_cache
from avjax.storage import lock, paths, remote
from avjax.systems import api
from data_pipelines import decode
from data_pipelines.loading.loader import check_recipes
from data_pipelines.store import dataset as store
from eval import benchmarks, generator
from eval.report import page, tables
from eval.run import runner
from launch import flags as launch_flags


def open_benchmark(config, workdir, *, full: bool = True):
    """(benchmark, feature dataset) of an experiment. UserError when either is missing."""
    if not config.evaluate.benchmark:
        raise UserError("this experiment has no benchmark", where="config.evaluate.benchmark",
                        found="empty", expected=" or ".join(benchmarks.names()),
                        hint="set --config.evaluate.benchmark")
    dataset = store.open_dataset(launch_flags.fill(config.data.dir, workdir))
    decoder = decode.Decoder.from_dataset(dataset)
    benchmark = benchmarks.load(config.evaluate.benchmark)(
        config, decoder, dataset, api.build(config.system), clips=_clips(config, workdir, dataset),
        full=full)
    return benchmark, dataset


def evaluate(config, workdir, params=None, splits=None, *, out=None, checkpoint=None,
             progress: bool = True) -> dict:
    """Scores parameters on `splits`, writes results.json and report.html, prints the table.

    Args:
      config: the experiment's config.
      workdir: the training job's folder ("{workdir}" of paths, metrics.jsonl, the default `out`).
      params: what to score; None loads the newest checkpoint's average.
      splits: names; None = config.evaluate.splits.
      out: folder of the results; default `workdir`.
      checkpoint: where to load `params` from; default `workdir`.
      progress: show bars.

    Returns:
      The contents of results.json.

    Raises:
      UserError: no benchmark, dataset or checkpoint; another model's checkpoint; unknown split;
        recipes that differ.
    """
    workdir = pathlib.Path(workdir)
    out = pathlib.Path(out) if out else workdir
    system = api.build(config.system)
    benchmark, dataset = open_benchmark(config, workdir)
    runner.check(system, dataset)
    splits = tuple(splits or config.evaluate.splits)
    if not splits:
        raise UserError("no split to score", where="config.evaluate.splits", found="()",
                        expected=" or ".join(dataset.splits), hint="--split=NAME")
    for split in splits:
        runner.check_split(dataset, split)
    meta = {"name": config.name, "seed": int(config.evaluate.seed)}
    if params is None:
        checkpoint = checkpoint or workdir
        params, saved = checkpoints.load(checkpoint, system)
        check_recipes(dataset, saved.get("recipes", {}), system.example_spec, checkpoint)
        meta |= {"step": saved.get("step")}
    sampler = generator.Generator(system, batch_size=config.evaluate.batch_size,
                                  seed=benchmark.seed)
    made: dict = {}
    with lock.hold(out.absolute() / lock.RESULTS, "the results in", out):
        results = runner.evaluate(benchmark, sampler, params, out, splits=splits, meta=meta,
                                  progress=progress, max_examples=config.evaluate.max_examples,
                                  made=made)
        shown = runner.samples(benchmark, sampler, params, splits, made=made)
        written = page.write(out, results, shown, workdir)
    print(tables.table(results))
    print(f"results: {out / runner.RESULTS_FILE}\nreport:  {written}")
    return results


def _clips(config, workdir, dataset):
    """The clip dataset that the features were extracted from, if a stage of the config says so and
    it is there."""
    for stage in config.stages:
        if stage.get("kind") == "extract" and "clips" in stage and \
                pathlib.Path(launch_flags.fill(stage.get("out", ""),
                                               workdir)).absolute() == dataset.dir:
            folder = pathlib.Path(launch_flags.fill(stage["clips"], workdir))
            return store.open_dataset(folder) if folder.is_dir() else None
    return None


def workdir_of(checkpoint):
    """The workdir a checkpoint path lies in, as `paths.folder`: itself, or the parent of its
    `checkpoints` folder."""
    path = paths.folder(checkpoint)
    for folder in (path, path.parent):
        if folder.name == checkpoints.FOLDER:
            return folder.parent
    return path


def define_flags() -> None:
    """Only as a program: other launchers import `evaluate` and have flags of the same names."""
    launch_flags.define_config()
    flags.DEFINE_string("checkpoint", None, "Workdir, or one checkpoint.")
    flags.DEFINE_list("split", None, "Splits to score; default config.evaluate.splits.")
    flags.DEFINE_string("out", None, "Folder of the results; default: the workdir.",
                        allow_override=True)


def main(argv):
    del argv
    args = flags.FLAGS
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
        evaluate(args.config, here, splits=args.split, out=args.out,
                 checkpoint=here if paths.is_remote(given) else given)


if __name__ == "__main__":
    define_flags()
    launch_flags.run(main)
