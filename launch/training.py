"""One training job: from a config and a workdir to a trained model in the workdir. `launch.train`
is its command."""

import contextlib
import json
import zlib
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from avjax.checkpoint import checkpoints
from avjax.checkpoint.files import FOLDER, Unreadable, meta_or_none, retry_until_stable, steps_in
from avjax.errors import UserError
from avjax.hosts import distributed, environment
from avjax.hosts.ownership import sole_writer
from avjax.sharding.mesh import batch_share, make_mesh
from avjax.storage import paths, records
from avjax.systems import api
from avjax.training import loop, start
from avjax.training.evaluators import HeldOutLoss
from data_pipelines.loading.loader import check_recipes, make_mixed_loader
from data_pipelines.loading.mixture import Part
from data_pipelines.store.schema import CODECS_DIR, RECIPES_FILE
from launch import data, identities, preflight, schema
from launch.flags import fill, unfill

CONFIG_FILE = "config.json"


def run_training(config: ConfigDict, workdir: Path) -> loop.Result:
    """Trains one config in one workdir, or resumes there. Raises UserError, loop.Preempted."""
    workdir = paths.folder(workdir)
    with sole_writer(workdir):
        return _run_training(config, workdir)


def _run_training(config: ConfigDict, workdir: Path) -> loop.Result:
    config = fill_config(config, workdir)
    agree(config, workdir)
    parts = data.open_parts(config.data, preflight.has_read(config, workdir))
    dataset = parts[0].dataset  # held out, and decoded with
    preflight.check_splits(config, parts)
    mesh = make_mesh(config.mesh, dcn=config.dcn)
    system = api.build(config.system)
    check_resumable(config, workdir)
    if (workdir / RECIPES_FILE).is_file():
        check_recipes(dataset, records.read_json(workdir / RECIPES_FILE),
                      system.example_spec, workdir)

    check_warm_start(config, system, dataset, workdir)
    for part in parts:
        identities.check(system, part.dataset, begun=(workdir / CONFIG_FILE).exists())

    host, num_hosts = batch_share(mesh)

    def loader(parts, seed, threads):
        return make_mixed_loader(parts, system, batch_size=config.data.batch_size,
                                 segment=config.data.segment, seed=seed, host=host,
                                 num_hosts=num_hosts, threads=threads)

    evaluators = make_evaluators(config, workdir, system, dataset, mesh, loader)
    preflight.check_best_metric(config, evaluators)
    # checks features and recipes before anything is written
    loader(parts, config.seed, 0).close()
    distributed.barrier("all checks")  # what they read is written now
    if distributed.is_main():
        write_run_files(config, workdir, dataset)
    distributed.barrier("the workdir's files")
    check_shared(workdir)
    meta = {"system": config.system.name, "recipes": dataset.recipes, "dataset": dataset.name}
    return loop.train(config, system, workdir,
                      lambda: loader(parts, config.seed, config.data.threads),
                      evaluators, meta, mesh)


def agree(config: ConfigDict, workdir: Path) -> None:
    """UserError, on every host, unless all were started with the same config and workdir."""
    distributed.configure(barrier_seconds=config.train.barrier_timeout)
    distributed.agree({"workdir": str(workdir)} | _flat(plain(config)), "config")


def check_shared(workdir: Path) -> None:
    """UserError, on every host, when one does not see what host 0 wrote."""
    def look() -> int:
        try:
            return zlib.crc32((workdir / CONFIG_FILE).read_bytes())
        except FileNotFoundError:
            return -1

    seen = retry_until_stable("the workdir as seen", look)
    if len(set(seen)) > 1:
        missing = [host for host, crc in enumerate(seen) if crc != seen[0]]
        raise UserError("the workdir is not shared", where=str(workdir),
                        expected=f"storage where every host sees "
                        f"{CONFIG_FILE} that host 0 writes",
                        found=f"another or none on {distributed.peers().names(missing)}",
                        hint="use a workdir on a network file system")


def check_warm_start(config, system, dataset, workdir: Path) -> None:
    """UserError when a new job would begin with parameters that were trained on features made
    otherwise."""
    t = config.train
    if t.init_other_features or (workdir / CONFIG_FILE).exists():
        return
    for where, path in preflight.starts(t):
        saved = checkpoints.load_meta(path).get("recipes", {})
        names = [n for n in system.example_spec if saved.get(n, {}).get("kind", "none") != "none"]
        try:
            check_recipes(dataset, saved, names, path)
        except UserError as error:
            raise UserError(
                f"warm start: {error}", where=f"config.train.{where}",
                hint="--config.train.init_other_features=True if that is what you want") from error


def make_evaluators(config, workdir, system, dataset, mesh, loader) -> list:
    """The loss on the first held-out split, and the benchmark on a few of its examples when the
    config names one."""
    t, evaluators = config.train, []
    held_out = config.evaluate.splits  # see preflight.check_splits
    if t.evaluate_every <= 0 or not held_out:
        return []
    if t.loss_examples > 0:
        with loader([Part(dataset, held_out[0])], 0, 0) as batches:
            count = -(-t.loss_examples // config.data.batch_size)
            fixed = [next(batches) for _ in range(count)]
        evaluators.append(HeldOutLoss(system, fixed, mesh, every=t.evaluate_every,
                                      name=held_out[0]))
    if config.evaluate.benchmark and config.evaluate.in_loop_examples > 0:
        from eval.run.in_loop import InLoopEvaluator
        from launch.jobs.evaluate import open_benchmark

        benchmark, _ = open_benchmark(config, workdir, dataset=dataset, full=False)
        evaluators.append(InLoopEvaluator(config, system, benchmark))
    return evaluators


def fill_config(config: ConfigDict, workdir: Path) -> ConfigDict:
    """A locked copy with "{workdir}" replaced in data.dir and mixture, train.init_from and
    init_parts."""
    config = ConfigDict(config)
    for name in data.FIELDS:
        config.data[name] = fill(config.data[name], workdir)
    for name in ("init_from", "init_parts"):
        config.train[name] = fill(config.train[name], workdir)
    return config.lock()


def plain(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON holds it (tuples become lists)."""
    return json.loads(config.to_json_best_effort())


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"a.b": value} of nested dicts; lists are values."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat = {}
    for name, inner in tree.items():
        flat |= _flat(inner, f"{prefix}.{name}" if prefix else name)
    return flat


def check_resumable(config: ConfigDict, workdir: Path) -> None:
    """UserError when the workdir was begun with a config that differs in a field that may not
    change (launch.schema.may_change), or has trained further than asked for."""
    with contextlib.suppress(Unreadable):  # reported by whoever reads them
        if saved := steps_in(workdir / FOLDER):
            start.check_steps(saved[-1], config.train.steps, workdir)
            before = meta_or_none(workdir / FOLDER / str(saved[-1])) or {}
            environment.compare(before.get("environment", {}), f"step {saved[-1]}")
    file = workdir / CONFIG_FILE
    if not file.exists():
        return
    try:
        before = _flat(json.loads(file.read_text()))
    except ValueError as error:
        raise UserError("the workdir's config is unreadable", where=str(file), found=str(error),
                        hint="use another workdir") from error
    now = _flat(plain(config))
    # a field that came with a later version has its default
    defaults = plain(schema.experiment().make())
    if of_system := schema.of_system(config):
        defaults["system"] = plain(of_system.make())
    before = {key: value for key, value in _flat(defaults).items() if key in now} | before
    differing = sorted(key for key in before.keys() | now.keys()
                       if before.get(key) != now.get(key) and not schema.may_change(config, key)
                       and not paths.moved(before.get(key), now.get(key))
                       and not (key == "data.mixture"
                                and data.only_moved(before.get(key), now.get(key))))
    if differing:
        raise UserError("this workdir was begun with another config", where=str(file),
                        expected=", ".join(f"{key}={before.get(key)!r}" for key in differing[:5]),
                        found=", ".join(f"{key}={now.get(key)!r}" for key in differing[:5])
                        + (f" and {len(differing) - 5} more" if len(differing) > 5 else ""),
                        hint="use the same values, or another --workdir"
                        + (_longer(config, workdir) if "train.steps" in differing else ""))


def _longer(config: ConfigDict, workdir: Path) -> str:
    """How to train a run longer whose schedule has an end."""
    return (f"; the {config.optimizer.schedule} schedule ends at config.train.steps, so train "
            "longer under a schedule of its own: another --workdir with "
            f"--config.train.init_from={workdir}")


def write_run_files(config: ConfigDict, workdir: Path, dataset) -> None:
    """config.json, recipes.json and codecs/: with them a workdir decodes its own streams, without
    the dataset."""
    workdir.mkdir(parents=True, exist_ok=True)
    for name in (RECIPES_FILE, CODECS_DIR):
        if (dataset.dir / name).exists():
            paths.copy_in(dataset.dir / name, workdir / name)
    recorded = plain(config)
    for name in data.FIELDS:
        recorded["data"][name] = unfill(recorded["data"][name], workdir)
    for name in ("init_from", "init_parts"):
        recorded["train"][name] = unfill(recorded["train"][name], workdir)
    paths.write_text(workdir / CONFIG_FILE, json.dumps(recorded, indent=1))
