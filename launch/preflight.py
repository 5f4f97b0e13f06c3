"""Whether what a config names exists: looked at before the first stage, as far as it can be known
then, so that nobody waits hours for a misspelt word. What needs the data that stages make is looked
at before the first step of training. (The fields themselves: launch/schema.py.)"""

import contextlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from avjax.checkpoint import checkpoints
from avjax.errors import UserError
from avjax.storage import paths
from avjax.training.evaluators import HeldOutLoss
from launch import data, schema
from launch.flags import fill, load_config

CONFIG_FILE = "config.json"  # of a workdir that was begun
# Arguments of stages that name a file or folder, where they are not one of a few words.
FILES = (
    "clips",
    "source",
    "weights",
    "head_vae",
    "vae",
    "reader",
    "vocoder",
    "tokenizer",
    "placeholder",
    "centroids",
    "statistics",
    "tts",
)
TRAIN_ARGUMENTS = {"config", "workdir", "overrides"}


def check(
    config: ConfigDict, workdir: Path, made: tuple[str, ...] = (), where: str = "config"
) -> None:
    """UserError for whatever of a training's config cannot be.

    Args:
      config: with "{workdir}" replaced, see launch.training.fill_config.
      workdir: of the training.
      made: what earlier stages make.
      where: what this is the config of, for the reader.
    """
    from avjax.systems import api

    schema.validate(config, where)
    system = api.build(config.system)
    t = config.train
    check_optimizer(config, system)
    if t.wandb and importlib.util.find_spec("wandb") is None:
        raise UserError(
            "Weights & Biases is not installed",
            where=f"{where}.train.wandb",
            found=repr(t.wandb),
            hint=f"pip install 'avjax[wandb]', or --{where}.train.wandb=None",
        )
    if t.local_dir and paths.is_remote(t.local_dir):
        raise UserError(
            "local checkpoints need a folder of this host",
            where=f"{where}.train.local_dir",
            found=t.local_dir,
        )
    for task in config.evaluate.tasks:
        _one_of(task, system.tasks, f"{where}.evaluate.tasks", "task")
    check_sample(config.sample, system, where)
    check_starts(config, workdir, made, where)
    for field, folder in data.folders(config.data, where):
        data.check_folder(folder, field)
    with contextlib.ExitStack() as at_leisure:
        # it may not be there yet, or not be whole
        if any(_comes(folder, made) for _, folder in data.folders(config.data)):
            at_leisure.enter_context(contextlib.suppress(NoDataset))
        check_splits(config, _opened(config, workdir))


def has_read(config, workdir) -> set[str]:
    """The folders of data that this workdir's job has read at an earlier start: if one is gone, its
    storage is away; any other folder that is not there is a wrong path."""
    try:
        before = ConfigDict(json.loads((workdir / CONFIG_FILE).read_text())).data
    except (FileNotFoundError, ValueError, AttributeError):
        return set()
    return {fill(folder, workdir) for _, folder in data.folders(before)}


class NoDataset(UserError):
    """Not there, or not whole."""


def _opened(config: ConfigDict, workdir: Path) -> list:
    try:
        return data.open_parts(config.data, has_read(config, workdir))
    except UserError as error:
        raise NoDataset(str(error)) from error


def check_optimizer(config: ConfigDict, system) -> None:
    """UserError: unknown names, patterns that match no parameter."""
    from avjax.training.optimizer import make_optimizer
    from avjax.training.state import abstract_params

    make_optimizer(config.optimizer, int(config.train.steps), abstract_params(system), system.turns)


def check_sample(wanted, system, where: str = "config") -> None:
    """UserError: a task that the system does not have, a file that is not there."""
    for task in wanted.get("tasks", ()):
        _one_of(task, system.tasks, f"{where}.sample.tasks", "task")
    if wanted["audio"] and not Path(wanted["audio"]).is_file():
        raise UserError(
            "no such file",
            where=f"{where}.sample.audio",
            found=wanted["audio"],
            expected="a file of speech",
        )


def starts(train) -> list[tuple[str, str]]:
    """(field of config.train, checkpoint that it names) of what a new job begins with."""
    named = [("init_from", train.init_from)] if train.init_from else []
    return named + [("init_parts", source) for _, source, _ in train.init_parts]


def check_starts(config: ConfigDict, workdir: Path, made: tuple[str, ...], where: str) -> None:
    """UserError: a new job is to begin with a checkpoint that is not there, and that no stage
    makes."""
    for name, path in starts(config.train):
        if not _comes(path, made) and not (workdir / checkpoints.FOLDER).exists():
            try:
                checkpoints.resolve(path)
            except UserError as error:
                raise UserError(f"{where}.train.{name}: {error}") from error


def check_splits(config: ConfigDict, parts) -> None:
    """UserError: a split that the dataset does not have; of those that are held out, where the
    config is to be evaluated at all.

    Args:
      parts: see data.open_parts.
    """
    e, t = config.evaluate, config.train
    for (field, _), part in zip(data.folders(config.data), parts, strict=True):
        name = field.replace("data.dir", "data.train_split")
        _one_of(part.split, tuple(part.dataset.splits), f"{name}, {part.dataset.dir}", "split")
    dataset = parts[0].dataset
    if not (e.benchmark or t.evaluate_every > 0 and t.loss_examples > 0):
        return
    for split in e.splits:
        if not dataset.splits.get(split):
            raise UserError(
                "unknown split",
                where=f"config.evaluate.splits, {dataset.dir}",
                found=repr(split) + (", which is empty" if split in dataset.splits else ""),
                expected=" or ".join(dataset.splits),
                hint="name one of the dataset's splits, or --config.evaluate.splits=None for no "
                "evaluation",
            )


def check_best_metric(config: ConfigDict, evaluators) -> None:
    """UserError when none of the evaluators (that say what they measure) measures
    config.train.best_metric."""
    t = config.train
    losses = [f"{e.name}/loss" for e in evaluators if isinstance(e, HeldOutLoss)]
    if not evaluators or not t.keep_best or t.best_metric in ("loss" if losses else "", *losses):
        return
    names = [getattr(e, "metrics", None) for e in evaluators]
    if None in names:
        return
    known = [
        f"{e.name}/{metric}"
        for e, metrics in zip(evaluators, names, strict=True)
        for metric in metrics
    ]
    if not any(t.best_metric in (name, name.split("/", 1)[1]) for name in known):
        raise UserError(
            "no evaluator measures the metric that picks the best checkpoint",
            where="config.train.best_metric",
            expected=" or ".join(known[:12]),
            found=repr(t.best_metric),
        )


def check_stages(stages, workdir: Path, where: str = "config.stages") -> tuple[str, ...]:
    """UserError for a stage that could not run, before any does; returns what they make."""
    from launch.jobs.stages import KINDS, check_arguments

    made: tuple[str, ...] = ()
    for index, stage in enumerate(stages):
        at = f"{where}[{index}]"
        arguments = fill(stage, workdir)
        kind = arguments.pop("kind", None)
        if kind not in KINDS:
            raise UserError(
                "unknown stage", where=at, expected=" or ".join(KINDS), found=repr(kind)
            )
        target = "workdir" if kind == "train" else "out"
        if not arguments.get(target):
            raise UserError(
                "a stage without an output", where=at, expected=f"a value for {target!r}"
            )
        if _is_done(kind, paths.folder(arguments[target])):  # what it was made of may be gone
            made += (str(arguments[target]),)
            continue
        for name in FILES:
            value = arguments.get(name)
            named = isinstance(value, str) and ("/" in value or Path(value).suffix)
            if named and not _comes(value, made) and not Path(value).expanduser().exists():
                raise UserError(
                    "no such file or folder",
                    where=f"{at}.{name}",
                    found=value,
                    expected="a path, or what an earlier stage makes",
                )
        if kind == "train":
            _check_training(arguments, made, at)
        else:
            check_arguments(kind, arguments, at)
        made += (str(arguments[target]),)
    return made


def _is_done(kind: str, out: Path) -> bool:
    """Whether the stage will be skipped, or is for launch.jobs.stages to refuse."""
    if kind != "train":
        return out.exists()
    with contextlib.suppress(OSError, ValueError, KeyError):
        return json.loads(out.with_name(out.name + ".stage.json").read_text())["done"]
    return False


def _check_training(arguments: dict[str, Any], made: tuple[str, ...], at: str) -> None:
    if unknown := sorted(arguments.keys() - TRAIN_ARGUMENTS) or ("config" not in arguments):
        raise UserError(
            "wrong arguments of a train stage",
            where=at,
            found=str(unknown) if unknown is not True else "no config",
            expected=", ".join(sorted(TRAIN_ARGUMENTS)),
        )
    from launch.training import fill_config

    workdir = paths.folder(arguments["workdir"])
    inner = fill_config(load_config(arguments["config"], arguments.get("overrides")), workdir)
    check(inner, workdir, made, where=f"{at}.config")


def _comes(path: str, made: tuple[str, ...]) -> bool:
    """Whether an earlier stage makes it: its output, what lies in there, or beside it under a
    longer name."""
    return any(str(path).startswith(out) for out in made)


def _one_of(value: str, known, where: str, what: str) -> None:
    if value not in known:
        raise UserError(
            f"unknown {what}", where=where, expected=" or ".join(known), found=repr(value)
        )
