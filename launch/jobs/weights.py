"""Published weights into workdirs and out of them: what `launch.weights` does.

Which systems have published weights, and all that is known of them, is declared beside the
networks: avjax/systems/x/published.py.
"""

import importlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util
from ml_collections import ConfigDict

from avjax.checkpoint.checkpoints import Checkpoints, load_meta
from avjax.checkpoint.loading import load
from avjax.errors import UserError
from avjax.sharding.mesh import make_mesh
from avjax.sharding.rules import named_leaves
from avjax.storage import atomic
from avjax.systems import api, registry
from avjax.training.optimizer import make_optimizer
from avjax.training.state import abstract_params, abstract_state, trainable_part
from avjax.weights.names import PREFIXED, Unlike, check_arrays
from avjax.weights.plain_pickle import Foreign
from avjax.weights.published import Published
from avjax.weights.reader import file_sha256, flatten, read_checkpoint, read_state_dict
from avjax.weights.torch_writer import write_torch_zip
from data_pipelines.store.dataset import open_dataset
from launch.training import CONFIG_FILE, plain, write_run_files

Say = Callable[[str], None]
Beside = Callable[[ConfigDict, Path], dict[str, dict]]


def published(system: str, where: str) -> Published:
    """What is known of a system's published weights. UserError: nothing."""
    found = registry.published(system)
    if found is None:
        having = [name for name in registry.names() if registry.published(name)]
        raise UserError("this system has no published names", where=where,
                        expected=" or ".join(having), found=system,
                        hint="use its Orbax checkpoint as it is")
    return found


def published_experiment(system: str) -> ConfigDict:
    """The published experiment, of configs/."""
    name, _, variant = published(system, "--system").experiment.partition(":")
    module = importlib.import_module(f"configs.{name}")
    return module.get_config(*[variant] * bool(variant))


def describe(path: str) -> str:
    """A table of every array: name, shape, dtype, bytes; what was left unread; then totals and the
    file's SHA-256."""
    tree = read_checkpoint(path, foreign=True)
    arrays = flatten(tree)
    rows = [(name, str(tuple(a.shape)), str(a.dtype), f"{a.nbytes:,}")
            for name, a in arrays.items()]
    name, shape, dtype, size = (max((len(row[i]) for row in rows), default=0) for i in range(4))
    lines = [f"{n:{name}}  {s:{shape}}  {d:{dtype}}  {b:>{size}}" for n, s, d, b in rows]
    total = sum(a.nbytes for a in arrays.values())
    numbers = sum(a.size for a in arrays.values())
    lines += [f"{name}  {value}" for name, value in flatten(tree, kind=Foreign).items()]
    return "\n".join([*lines, f"{len(rows)} arrays, {numbers:,} numbers, {total:,} bytes",
                      f"sha256 {file_sha256(path)}"])


def export(workdir: str, out: str, *, step: str | None = None, average: bool = True,
           say: Say = print) -> int:
    """Writes a workdir's parameters under the published names; returns how many arrays. A .pt is
    the published code's own file, beside which lies what that code looks for there; a .safetensors
    has the system's config in its metadata. UserError: no checkpoint, a system without published
    names, or `out` exists."""
    check_new(out)
    state, config, meta = trained(workdir, step, average, say)
    write(out, state, config, meta)
    return len(state)


def check_new(out: str, endings: tuple[str, ...] = (".pt", ".safetensors")) -> None:
    """UserError: `out` exists, or ends otherwise."""
    if not out.endswith(endings) or os.path.lexists(out):
        raise UserError("cannot write the weights", where=out,
                        expected=f"a new file that ends in {' or '.join(endings)}",
                        found="it exists" if os.path.lexists(out) else "another ending",
                        hint="choose another --out")


def trained(workdir: str, step: str | None, average: bool,
            say: Say) -> tuple[dict[str, np.ndarray], ConfigDict, dict]:
    """A workdir's parameters under the published names, config.system and the checkpoint's
    record; `say` is told which parts are left out. UserError: no checkpoint, a system without
    published names."""
    config = ConfigDict(load_meta(workdir, step)["config"]["system"])
    names = published(config.name, workdir)
    params, meta = load(workdir, api.build(config), "ema" if average else "params", step)
    if unused := [part for part in names.training if part in params]:
        say(f"left out: {', '.join(unused)}, which no published file has")
    return names.write(jax.tree.map(np.asarray, params), config), config, meta


def write(out: str, state: dict[str, np.ndarray], config: ConfigDict, meta: dict) -> None:
    """What `trained` gives, as a new file; see `export`."""
    names = published(config.name, out)
    if out.endswith(".safetensors"):
        save(out, state, metadata={"system": json.dumps(config.to_dict())})
    else:
        save(out, names.file(state, meta.get("step", 0)), beside=names.beside(config))


def save(out: str, tree: dict, *, beside: Mapping[str, str] = MappingProxyType({}),
         metadata: Mapping[str, str] = MappingProxyType({})) -> None:
    """Writes a new file: a .safetensors, with metadata, or one of PyTorch's.

    beside: {name: text} of files in its folder. UserError: one of them is there, with other
    contents; or the disk refuses.
    """
    for name, text in beside.items():
        _check_beside(Path(out).with_name(name), text)
    try:
        with atomic.aside(out) as temporary:
            if not out.endswith(".safetensors"):
                write_torch_zip(str(temporary), tree)
            else:  # transformers refuses a file without a format
                temporary.touch()
                mode = temporary.stat().st_mode
                # see findings/safetensors_transposed.sh
                arrays = {n: np.ascontiguousarray(x) for n, x in tree.items()}
                safetensors.numpy.save_file(arrays, temporary, {"format": "pt", **metadata})
                temporary.chmod(mode)  # safetensors 0.8 makes files that nobody else may read
            for name, text in beside.items():  # before the weights, which mean little without
                Path(out).with_name(name).write_text(text)
    # the latter for what the disk refuses, too
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError("cannot write the weights", where=out, found=str(error),
                        hint="choose another --out") from error


def _check_beside(path: Path, text: str) -> None:
    """UserError where another file of the name that belongs beside an exported one is there."""
    if path.exists() and path.read_text(errors="replace") != text:
        raise UserError("another file lies where one that belongs to the weights is to be written",
                        where=str(path), found="other contents",
                        hint="choose an --out in a folder of its own")


def published_config(system: str, state: dict[str, np.ndarray]) -> ConfigDict:
    """The published experiment, with the sizes that the weights show. What they do not show
    (numbers of heads, windows, patch, delay) is as published. UserError: another network's weights,
    or sizes that the published code has not."""
    config = published_experiment(system)
    config.system.update(published(system, "--system").sizes(state, config.system))
    return config


def shown_config(system: str, file: str, state: dict[str, np.ndarray]) -> ConfigDict:
    """`published_config` of a file; UserError too where an array has other dimensions."""
    try:
        return published_config(system, state)
    except (IndexError, ValueError) as error:
        raise UserError("the weights are of another network", where=file,
                        expected=f"those of {system}",
                        found=f"an array of other dimensions ({error})", hint=PREFIXED) from error


def import_file(system: str, file: str, workdir: str, *, config: ConfigDict | None = None,
                data: str | None = None, select: str | None = None,
                beside: Beside | None = None, say: Say = print) -> ConfigDict:
    """A workdir with one checkpoint, step 0, of a published file; returns its config.

    The checkpoint is a complete training state (fresh optimizer), so that training continues from
    it. UserError: file not readable or of another network than the config's; workdir in use; `data`
    missing.

    `beside`: (the config's system, a folder) -> recipes of the features that the network was
    trained on; writes what else belongs into the workdir, which that folder becomes.
    `say` is told what of the file is left out, and which parameters are fresh.
    """
    folder = Path(workdir)
    check_free(folder)
    names = published(system, "--system")
    dataset = open_dataset(data) if data else None
    state = names.opened(file) if names.opened and not select else read_state_dict(file, select)
    if config is None:
        config = exported_config(system, file) or shown_config(system, file, state)
    elif config.system.name != system:
        raise UserError("--config is of another system", where="config.system.name",
                        expected=system, found=config.system.name)
    if data:
        config.data.dir, config.data.mixture = os.path.abspath(data), ()
    model = api.build(config.system)
    expected = abstract_params(model)
    try:
        params = _with_fresh_parts(names.read(state, config.system), model, config.seed,
                                   names.fresh(config.system), say)
    except Unlike as error:
        wanted = names.write(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape),
                                          expected), config.system)
        raise error.with_shapes(state, wanted, file) from error
    _check_fit(params, expected, file)
    if unread := names.unread(state, config.system):
        say(f"left out, as the config has no place for it: {', '.join(unread)}")

    temporary = folder.with_name(f".{folder.name}.importing")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UserError("the workdir cannot be made", where=workdir, found=str(error),
                        hint="choose another --workdir") from error
    try:
        recipes = beside(config.system, temporary) if beside else {}
        meta = {"config": plain(config), "best_mode": config.train.best_mode, "system": system,
                "data": {"next_index": 0}, "recipes": dataset.recipes if dataset else recipes,
                "imported": _origin(file, names)}
        _save(temporary, config, model, params, expected, meta)
        if dataset:
            write_run_files(config, temporary, dataset)
        else:
            (temporary / CONFIG_FILE).write_text(json.dumps(plain(config), indent=1))
        check_free(folder)  # a training may have begun in it meanwhile
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return config


def _origin(file: str, names: Published) -> dict:
    """What a checkpoint records of the file, or files, that it was made of."""
    if not names.files or not os.path.isdir(file):
        return {"file": Path(file).name, "sha256": file_sha256(file)}
    return {"folder": Path(file).name, "sha256": {path.name: file_sha256(path)
                                                  for path in names.files(file).values()}}


def _save(folder: Path, config, model, params, expected, meta: dict) -> None:
    """Checkpoint 0 of a training that begins with `params`."""
    mesh = make_mesh(config.mesh)
    optimizer = make_optimizer(config.optimizer, int(config.train.steps), expected, model.turns)
    with jax.set_mesh(mesh):
        target = abstract_state(model, optimizer, mesh, ema=config.optimizer.ema_decay > 0)

        def put(value, place):
            return jax.device_put(np.asarray(value, place.dtype), place.sharding)

        state = {"params": jax.tree.map(put, params, target["params"])}
        if "ema" in target:
            state["ema"] = jax.tree.map(put, trainable_part(params, optimizer), target["ema"])
        places = jax.tree.map(lambda x: x.sharding, target["opt_state"])
        state["opt_state"] = jax.jit(optimizer.transform.init,
                                     out_shardings=places)(state["params"])
        state["step"] = put(0, target["step"])
        checkpoints = Checkpoints(folder)
        checkpoints.save(0, state, meta)
        checkpoints.close()


def _with_fresh_parts(params: dict, model, seed: int, patterns: tuple[str, ...],
                      say: Say) -> dict:
    """`params` and, of the parts that it lacks and of parameters whose paths match one of the
    `patterns`, `init`'s drawn by `seed`."""
    given = dict(named_leaves(params))
    expected = [name for name, _ in named_leaves(abstract_params(model)) if name not in given]
    by_part = {name: name.partition("/")[0] for name in expected}
    lacking = {name: part for name, part in by_part.items() if part not in params}
    for name in expected:
        found = next((p for p in patterns if re.fullmatch(p, name)), None)
        if found and name not in lacking:
            lacking[name] = found
    if not lacking:
        return params
    fresh = jax.jit(lambda keys: {
        name: leaf for name, leaf in named_leaves(api.params_of(model, keys))
        if name in lacking})(api.params_keys(model, jax.random.key(seed)))
    say(f"not in the file, so fresh: {', '.join(dict.fromkeys(lacking.values()))}")
    return traverse_util.unflatten_dict(given | fresh, sep="/")


def exported_config(system: str, file: str) -> ConfigDict | None:
    """The experiment with the system that `export` wrote into a .safetensors; None if the file is
    not of ours. Numbers of heads do not show in the weights: with the published ones, another run's
    weights would be misread silently."""
    if not file.endswith(".safetensors") or not os.path.isfile(file):
        return None
    try:
        with safetensors.safe_open(file, "np") as opened:
            ours = json.loads((opened.metadata() or {}).get("system", "{}"))
    except (safetensors.SafetensorError, ValueError):
        return None  # what is wrong with it is told when it is read
    if not isinstance(ours, dict) or ours.get("name") != system:
        return None
    config = published_experiment(system)
    config.system = ConfigDict(ours)
    return config


def check_free(folder: Path) -> None:
    """UserError unless nothing is there, or an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        inside = sorted(p.name for p in folder.iterdir())[:5] if folder.is_dir() else ["a file"]
        raise UserError("the workdir is in use", where=str(folder),
                        expected="a new or empty folder", found=", ".join(inside),
                        hint="choose another --workdir")


def _check_fit(params, expected, file: str) -> None:
    check_arrays(*({name: tuple(leaf.shape) for name, leaf in named_leaves(tree)}
                   for tree in (params, expected)), "the weights do not fit the config", where=file,
                 hint="set the sizes with --config")
    for name, leaf in named_leaves(params):
        with np.errstate(over="ignore"):  # of float64, which is told here
            finite = np.isfinite(np.asarray(leaf, np.float32))
        if not finite.all():
            raise UserError("the weights hold numbers that are not finite", where=f"{file}, {name}",
                            expected="float32 numbers",
                            found=f"{finite.size - finite.sum()} of {finite.size} are not",
                            hint="take an earlier checkpoint, or save it in float32")
