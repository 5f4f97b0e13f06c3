"""Evaluation of a checkpoint on held-out splits."""

import pathlib
from typing import Any, NamedTuple

import jax

from avjax.checkpoint import checkpoints
from avjax.errors import UserError
from avjax.inference.generator import Generator
from avjax.inference.local import local_mesh
from avjax.storage import lock
from avjax.systems import api
from data_pipelines import decode, vocoders
from data_pipelines.live.decoder import StreamedDecoder
from data_pipelines.live.parts import Settings
from data_pipelines.loading.loader import check_recipes
from data_pipelines.store import dataset as store
from data_pipelines.store import made_from
from eval import benchmarks
from eval.benchmarks.named.declaration import Named
from eval.report import page
from eval.run import runner, steps
from eval.run.rows import WHOLE, Share, lock_file
from launch import data
from launch import flags as launch_flags
from launch.jobs.scoring import told

PATIENCE = 3600.0  # seconds to wait for another share that merges the rows


def open_benchmark(config, workdir, *, dataset=None, full: bool = True, wanted=()):
    """(benchmark, feature dataset) of an experiment; `dataset` where it is open already, `wanted`
    the only metrics that count. UserError when either is missing."""
    if not config.evaluate.benchmark:
        raise UserError("this experiment has no benchmark", where="config.evaluate.benchmark",
                        found="empty", expected=" or ".join(benchmarks.names()),
                        hint="set --config.evaluate.benchmark")
    dataset = dataset or store.open_dataset(
        launch_flags.fill(data.main_folder(config.data), workdir))
    # older jobs know no vocoder, nor `streamed`
    vocoder = config.evaluate.get("vocoder", "") or vocoders.in_workdir(workdir)
    given = {name: value for name in ("geometry", "lip_vertices")
             if (value := config.evaluate.get(name, ""))}
    if config.evaluate.get("streamed"):
        settings = Settings(config.stream.vocoder_block, config.stream.vocoder_ahead)
        decoder = StreamedDecoder.from_dataset(dataset, settings=settings, vocoder=vocoder,
                                               **given)
    else:
        decoder = decode.Decoder.from_dataset(dataset, vocoder=vocoder, **given)
    benchmark = benchmarks.load(config.evaluate.benchmark)(
        config, decoder, dataset, api.build(config.system),
        clips=clips_of(config, workdir, dataset), full=full)
    benchmark.wanted = tuple(wanted)
    benchmark.load_networks()
    return benchmark, dataset


class Opened(NamedTuple):
    """What scores the checkpoints of one job, opened once."""

    benchmark: Any
    dataset: Any
    sampler: Generator
    splits: tuple[str, ...]
    named: Named | None


def opened(config, workdir, splits=None, named: Named | None = None) -> Opened:
    """UserError: no benchmark or dataset, an unknown split, recipes that differ."""
    system = api.build(config.system)
    benchmark, dataset = open_benchmark(config, workdir, wanted=named.metrics if named else ())
    if told := data.said(config.data):
        print(told)
    runner.check(system, dataset)
    splits = tuple(splits or config.evaluate.splits)
    if not splits:
        raise UserError("no split to score", where="config.evaluate.splits", found="()",
                        expected=" or ".join(dataset.splits), hint="--split=NAME")
    for split in splits:
        runner.check_split(dataset, split)
    sampler = Generator(system, batch_size=config.evaluate.batch_size, seed=benchmark.seed,
                        mesh=local_mesh())
    return Opened(benchmark, dataset, sampler, splits, named)


def check(config, workdir) -> None:
    """UserError for what would keep `evaluate` from scoring this experiment once it is trained."""
    _, dataset = open_benchmark(config, workdir)
    runner.check(api.build(config.system), dataset)


def evaluate(config, workdir, params=None, splits=None, *, out=None, checkpoint=None,
             progress: bool = True, share: Share = WHOLE, merge: bool = True,
             keep_media: bool = False, ranked_by: str = "", root=None, named: Named | None = None,
             using: Opened | None = None) -> dict | None:
    """Scores parameters on `splits`, writes results.json and report.html, prints the table.

    Args:
      config: the experiment's config.
      workdir: the training job's folder ("{workdir}" of paths, metrics.jsonl, the default `out`).
      params: what to score; None loads the newest checkpoint's average.
      splits: names; None = config.evaluate.splits.
      out: folder of the results; default `workdir`.
      checkpoint: where to load `params` from; default `workdir`.
      progress: show bars.
      share: (k, n): this process scores its share of the examples, on a folder that all see; the
        last one merges all rows.
      merge: False only scores.
      keep_media, ranked_by: see eval.run.runner.Run.
      root: where `out` holds one of several steps: the folder of all steps' rows, of their history
        and of the report, which is of the last one; default `out`.
      named: the benchmark that this is, where it has a name.
      using: from `opened`, for several checkpoints of one job.

    Returns:
      The contents of results.json, which lists examples that failed. None if rows of other shares
      are missing, or without `merge`.

    Raises:
      UserError: no benchmark, dataset or checkpoint; another model's checkpoint; unknown split;
        recipes that differ.
    """
    workdir = pathlib.Path(workdir)
    out = pathlib.Path(out) if out else workdir
    root = pathlib.Path(root) if root else out
    benchmark, dataset, sampler, splits, named = using or opened(config, workdir, splits, named)
    meta: dict = {"name": config.name, "seed": int(config.evaluate.seed)}
    if named:
        meta |= {"published": named.published, "protocol": named.protocol}
    if params is None:
        checkpoint, system = checkpoint or workdir, sampler.system
        params, saved = checkpoints.load(checkpoint, system)
        check_recipes(dataset, saved.get("recipes", {}), system.example_spec, checkpoint)
        meta |= {"step": saved.get("step")}
    meta |= {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params))}
    made: dict = {}
    patience = PATIENCE if root != out else 0.0  # the end of the training may score there, too
    with lock.hold(root.absolute() / lock_file(share), "the results in", root, wait=patience):
        run = runner.Run(benchmark, sampler, params, out, splits=splits, share=share,
                         max_examples=config.evaluate.max_examples, keep_media=keep_media,
                         ranked_by=ranked_by, rows_dir=root)
        run.score(progress=progress, made=made)
        if not merge:
            return None
        with lock.hold(root.absolute() / lock.RESULTS, "the results in", root, wait=PATIENCE):
            results = run.results(meta)
            if results is None:
                return None
            if root != out:
                steps.add(root, results)
            if share == WHOLE or not page.shows(root, results):
                shown = runner.samples(benchmark, sampler, params, splits, made=made,
                                       failed=results["failed"], ranked=results["ranked"])
                page.write(root, results, shown, workdir)
    told.results_of(results, benchmark, out, root,
                    f"sound of mel: {benchmark.decoder.sound_by}")
    return results


def clips_of(config, workdir, dataset):
    """The clip dataset that the features were extracted from, None if it is not there any more.
    Features of earlier versions do not record it: then a stage of the config may."""
    record = made_from.read(dataset.dir) or {}
    folder = made_from.source_of(dataset.dir)
    for stage in config.stages if folder is None else ():
        if stage.get("kind") == "extract" and "clips" in stage:
            stage = launch_flags.fill(stage, workdir)
            if pathlib.Path(stage.get("out", "")).absolute() == dataset.dir:
                folder = pathlib.Path(stage["clips"])
    if folder is None or not folder.is_dir():
        return None
    clips = store.open_dataset(folder)
    return clips if record.get("clips", clips.content) == clips.content else None
