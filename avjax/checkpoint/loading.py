"""Reading checkpoints outside a training loop: parameters for generation and evaluation, warm
starts.

`path` is a workdir, its `checkpoints` folder, or one checkpoint: local, or a URL. Orbax reads gs://
by itself; from other object stores (s3://, ...) a checkpoint is copied to a temporary folder first.
"""

import atexit
import functools
import logging
import re
import shutil
import tempfile
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

from avjax.checkpoint.files import (
    Broken,
    check_same_model,
    read_arrays,
    read_meta,
    reader,
    resolve,
    saved_shapes,
    steps_in,
    verify,
)
from avjax.errors import UserError
from avjax.sharding.rules import named_leaves
from avjax.storage import paths
from avjax.systems import api, registry


class Damaged(UserError):
    """No whole checkpoint is left of those asked for."""


def load_params(path: str | Path, system, which: str = "ema", step: int | str | None = None) -> Any:
    """Parameters for generation, evaluation or extraction; see `load`."""
    return load(path, system, which, step)[0]


def load(path: str | Path, system, which: str = "ema",
         step: int | str | None = None) -> tuple[Any, dict]:
    """(parameters on this process's first device, the checkpoint's meta with "step" added).

    Args:
      path, step: as for `resolve`. Without `step`, a broken newest checkpoint falls back to the one
        before it.
      which: "ema" (the average when the checkpoint has one, else the parameters) or "params".

    Raises UserError: no checkpoint, broken, or of another model than `system`.
    """
    newest = resolve(path, step)
    candidates = [newest]
    if step is None and newest != paths.folder(path):
        older = [s for s in steps_in(newest.parent) if s < int(newest.name)]
        candidates += [newest.parent / str(s) for s in reversed(older)]
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
                          api.abstract_params(system))
    problem: Exception | None = None
    for candidate in candidates:
        try:
            folder = local_copy(candidate)
            saved = saved_shapes(folder)
            meta = read_meta(folder)
            return _read_params(folder, shapes, saved, which), with_step(meta, folder)
        except Broken as error:
            problem = problem or error
            logging.getLogger(__name__).warning("checkpoint %s is broken (%s)", candidate, error)
    raise Damaged("the checkpoint is broken", where=str(newest), found=str(problem),
                  hint="use another checkpoint")


def warm_start(params: Any, path: str | Path, *, include: Sequence[str] = (".*",), into: str = "",
               of: str = "") -> tuple[Any, str]:
    """Replaces new parameters by a checkpoint's, e.g. stage 2 from stage 1, or a part from the job
    that trained that part alone.

    Args:
      params: sharded arrays; the result has their shardings.
      path: as for `resolve`; the average is taken when the checkpoint has one.
      include: regular expressions over whole paths; parameters that match none stay fresh.
      into, of: the subtree ("a/b") of `params` to fill, and the checkpoint's subtree that fills it;
        "" = all.

    Returns:
      (parameters, a line about which were taken and which stayed fresh).

    Raises UserError: no checkpoint, broken, nothing taken, or an included parameter of another
    shape.
    """
    folder = local_copy(resolve(path))
    try:
        verify(folder)
        saved = saved_shapes(folder)
    except Broken as error:
        raise UserError("the checkpoint is broken", where=str(folder), found=str(error),
                        hint="use another checkpoint") from error
    leaves = dict(named_leaves(params))
    ours, theirs = (f"{prefix}/" if prefix else "" for prefix in (into, of))
    # our name -> the saved one
    source = {n: saved_as(theirs + n.removeprefix(ours), saved)
              for n in leaves if n.startswith(ours)}
    wanted = {n: leaves[n] for n, at in source.items()
              if at in saved and any(re.fullmatch(p, n) for p in include)}
    for name, leaf in wanted.items():
        if saved[source[name]][0] != leaf.shape:
            raise UserError("a parameter of another shape",
                            where=f"{folder}, {source[name].split('/', 1)[1]}",
                            expected=str(leaf.shape), found=str(saved[source[name]][0]),
                            hint="use the sizes it was trained with, or leave it out by "
                            "config.train.init_include")
    if not wanted:
        raise UserError("the checkpoint has none of these parameters", where=str(folder),
                        expected=", ".join(f"{theirs}{p}" for p in include),
                        found=", ".join(list(saved)[:3]) + ", ...",
                        hint="check config.train.init_from, init_parts and init_include")
    target = unflatten_dict({
        source[name]: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for name, leaf in wanted.items()}, sep="/")
    with reader(alone=False) as r:
        loaded = r.restore(folder / "state", args=ocp.args.PyTreeRestore(
            item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=True))
    values = dict(named_leaves(loaded))
    flat, tree = jax.tree_util.tree_flatten(params)
    params = jax.tree_util.tree_unflatten(tree, [
        values[source[name]] if name in wanted else x
        for name, x in zip(leaves, flat, strict=True)])
    fresh = [name for name in source if name not in wanted]
    note = (f"warm start: {len(wanted)} of {len(source)} parameters "
            f"{f'of {into} ' if into else ''}from {folder}")
    if fresh:
        note += f"; fresh: {', '.join(fresh[:8])}{' ...' if len(fresh) > 8 else ''}"
    return params, note


def load_meta(path: str | Path, step: int | str | None = None) -> dict:
    """`read_meta` of the checkpoint that `resolve` picks, with "step" added and config.system
    completed by the fields that came after it."""
    folder = resolve(path, step)
    try:
        meta = read_meta(folder)
    except Broken as error:
        raise UserError("the checkpoint is broken", where=str(folder), found=str(error)) from error
    config = meta.get("config", {})
    if "system" in config:
        meta |= {"config": config | {"system": registry.completed(config["system"])}}
    return with_step(meta, folder)


def with_step(meta: dict, folder: Any) -> dict:
    return meta | ({"step": int(folder.name)} if folder.name.isdigit() else {})


def saved_as(name: str, saved: Container[str]) -> str:
    """Where a parameter's average is among the names `saved`, or the parameter if it has none."""
    return f"ema/{name}" if f"ema/{name}" in saved else f"params/{name}"


def _read_params(folder: Any, shapes: Any, saved: dict[str, tuple], which: str) -> Any:
    """The parameters of a checkpoint of `saved_shapes`, their averages where there are any and
    `which` is "ema", for this process alone."""
    verify(folder)
    names = saved if which == "ema" else ()
    target = unflatten_dict({saved_as(name, names): x
                             for name, x in flatten_dict(shapes, sep="/").items()}, sep="/")
    check_same_model(folder, target, partial=True, saved=saved)
    found = flatten_dict(read_arrays(folder, target, alone=True), sep="/")
    return unflatten_dict({name.split("/", 1)[1]: x for name, x in found.items()}, sep="/")


def local_copy(folder: Any) -> Any:
    """A checkpoint where Orbax can read it: itself, or a copy that is removed when this process
    ends."""
    return (folder if not paths.is_remote(folder) or str(folder).startswith("gs://")
            else _fetched(str(folder)))


@functools.cache
def _fetched(url: str) -> Path:
    copy = Path(tempfile.mkdtemp(prefix="avjax_checkpoint_"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    source = paths.folder(url)
    paths.copy_in(source, copy / source.name)
    return copy / source.name
