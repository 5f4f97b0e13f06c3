"""Checkpoints: Orbax behind one small file.

`<workdir>/checkpoints/<step>/` holds `state/` (the arrays), `meta/` (JSON: config, system, recipes, data position, the
value checkpoints are ranked by) and `checksums.json` (CRC-32 of every file, written once Orbax has committed). A save
is atomic: Orbax writes under a temporary name and renames. A torn or corrupt newest checkpoint is set aside with a
warning and the one before it is used.
"""

import dataclasses
import json
import logging
import re
import shutil
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from avjax.errors import UserError
from avjax.sharding.rules import named_leaves
from avjax.training.state import abstract_params

FOLDER = "checkpoints"
BROKEN = "checkpoints_broken"
CHECKSUMS = "checksums.json"
_DISK_MARGIN = 1.2  # free space asked for before a save, in sizes of the state

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports every file it touches


@dataclasses.dataclass
class _Keep(policies.PreservationPolicy):
    """The last `last` checkpoints and the `best` best-ranked ones. Ranks live in our own meta, so that they survive a
    restart (Orbax's own are kept only under its deprecated options)."""

    last: int
    best: int
    ranks: dict[int, float]  # step -> value, lower is better

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        steps = sorted(info.step for info in checkpoints)
        ranked = sorted((step for step in steps if step in self.ranks), key=lambda step: (self.ranks[step], step))
        keep = set(steps[-max(self.last, 1):]) | set(ranked[:self.best])
        return [info.step in keep for info in checkpoints]


class Checkpoints:
    """The checkpoints of one workdir, for the training loop. Call `poll` every step and `close` at the end."""

    def __init__(self, workdir: str | Path, *, keep_last: int = 2, keep_best: int = 1, best_mode: str = "min"):
        self.folder = Path(workdir).absolute() / FOLDER
        self._sign = {"min": 1.0, "max": -1.0}.get(best_mode)
        if self._sign is None:
            raise UserError("unknown mode", where="config.train.best_mode", expected="min or max", found=best_mode)
        ranks = {step: self._sign * meta["rank"] for step in _steps(self.folder)
                 if (meta := _meta_or_none(self.folder / str(step))) and meta.get("rank") is not None}
        self._keep = _Keep(keep_last, keep_best, ranks)
        self._sealer: threading.Thread | None = None
        self._unsealed: list[int] = []
        self._open()

    def _open(self):
        options = ocp.CheckpointManagerOptions(preservation_policy=self._keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: Any, meta: dict, *, rank: float | None = None) -> None:
        """Copies the state off the devices, returns, and writes in the background. `rank` is the value of the metric
        that picks the best. Raises UserError when the disk is full or an earlier save failed; the checkpoints already
        there stay whole."""
        self.wait()
        size = sum(x.nbytes for x in jax.tree.leaves(state))
        free = shutil.disk_usage(self.folder).free
        if free < _DISK_MARGIN * size:
            raise UserError("not enough disk space for a checkpoint", where=str(self.folder),
                            expected=f"{_DISK_MARGIN * size / 1e6:.0f} MB", found=f"{free / 1e6:.0f} MB",
                            way_out=f"free space and start again; last whole checkpoint: step {self.latest_step()}")
        if rank is not None:
            self._keep.ranks[step] = self._sign * rank
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(meta | {"rank": rank}))
        try:
            self._manager.save(step, args=args, force=True)
        except Exception as error:
            raise self._failed(step, error) from error
        self._unsealed.append(step)

    def poll(self) -> None:
        """Cheap: notices a finished or failed save, and writes its checksums in the background."""
        if self._unsealed and not self._manager.is_saving_in_progress():
            self._check()
            steps, self._unsealed = self._unsealed, []
            self._join()
            self._sealer = threading.Thread(target=lambda: [_seal(self.folder / str(step)) for step in steps])
            self._sealer.start()

    def wait(self) -> None:
        """Until everything saved so far is whole on disk."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(self._unsealed[-1] if self._unsealed else -1, error) from error
        self.poll()
        self._join()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()

    def _join(self):
        if self._sealer is not None:
            self._sealer.join()
            self._sealer = None

    def _check(self):
        try:
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failed(self._unsealed[-1], error) from error

    def _failed(self, step: int, error: Exception) -> UserError:
        whole = [s for s in _steps(self.folder) if s != step]
        return UserError("saving a checkpoint failed", where=f"{self.folder}, step {step}",
                         found=_first_line(error), way_out="free disk space or fix the folder and start again; last "
                         f"whole checkpoint: {'step ' + str(whole[-1]) if whole else 'none'}")

    def restore(self, target: Any, warn=print) -> tuple[int, Any, dict] | None:
        """(step, state, meta) of the newest whole checkpoint, laid out like `target` (abstract, with shardings), or
        None when there is none. Broken ones are moved to `checkpoints_broken`, with a call of `warn`.

        Raises UserError for a checkpoint of another model, naming the first parameter that differs, and when every
        checkpoint is broken.
        """
        steps = _steps(self.folder)
        for step in reversed(steps):
            try:
                state = _read_state(self.folder / str(step), target)
                return step, state, read_meta(self.folder / str(step))
            except _Broken as error:
                aside = self.folder.parent / BROKEN / str(step)
                shutil.rmtree(aside, ignore_errors=True)
                aside.parent.mkdir(exist_ok=True)
                self._manager.close()
                shutil.move(self.folder / str(step), aside)
                self._open()
                warn(f"checkpoint {step} is broken ({error}); moved to {aside}; trying the one before it")
        if steps:
            raise UserError("no whole checkpoint is left", where=str(self.folder), found=f"broken: {steps}",
                            way_out=f"look into {BROKEN}, or start in a new workdir")
        return None


class _Broken(Exception):
    """A checkpoint that is not whole."""


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _steps(folder: Path) -> list[int]:
    """Committed checkpoints, oldest first. Orbax renames a checkpoint to its number only when it is whole."""
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKSUMS)


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return crc


def _seal(folder: Path) -> None:
    """Writes checksums.json; a checkpoint that retention has already deleted is left alone."""
    if jax.process_index() == 0 and folder.is_dir():
        sums = {str(p.relative_to(folder)): _crc(p) for p in _files(folder)}
        temporary = folder / (CHECKSUMS + ".tmp")
        temporary.write_text(json.dumps(sums))
        temporary.rename(folder / CHECKSUMS)


def _verify(folder: Path) -> None:
    """Raises _Broken when a file is missing or its bytes changed. A checkpoint killed between commit and sealing has
    no checksums; Orbax's own structure check then has to do."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_text())
    except FileNotFoundError:
        return
    except ValueError as error:
        raise _Broken(f"{CHECKSUMS} is unreadable") from error
    for name, crc in sums.items():
        if not (folder / name).is_file():
            raise _Broken(f"{name} is missing")
        if _crc(folder / name) != crc:
            raise _Broken(f"{name} does not match its checksum")


def _saved_shapes(folder: Path) -> dict[str, tuple]:
    try:
        with ocp.PyTreeCheckpointer() as reader:
            tree = reader.metadata(folder / "state").item_metadata.tree
    except Exception as error:
        raise _Broken(_first_line(error)) from error
    return {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in named_leaves(tree)}


def _check_same_model(folder: Path, target: Any, *, partial: bool) -> None:
    saved = _saved_shapes(folder)
    wanted = {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in named_leaves(target)}
    found = saved if not partial else {k: v for k, v in saved.items() if k.split("/")[0] in target}
    # Parameters first: an optimiser state that differs as well says less.
    for name in sorted(wanted.keys() | found.keys(), key=lambda n: (not n.startswith(("params", "ema")), n)):
        if wanted.get(name) != found.get(name):
            def say(x):
                return f"{x[0]} {x[1]}" if x else "absent"
            raise UserError("the checkpoint is of another model or optimiser", where=f"{folder}, {name}",
                            expected=f"{say(wanted.get(name))} (the config's)",
                            found=f"{say(found.get(name))} (the checkpoint's)",
                            way_out="use the config that made it, or another workdir")


def _read_state(folder: Path, target: Any, *, partial: bool = False) -> Any:
    _verify(folder)
    _check_same_model(folder, target, partial=partial)
    restore_args = ocp.checkpoint_utils.construct_restore_args(target)
    try:
        with ocp.PyTreeCheckpointer() as reader:
            return reader.restore(folder / "state", args=ocp.args.PyTreeRestore(
                item=target, restore_args=restore_args, partial_restore=partial))
    except Exception as error:
        raise _Broken(_first_line(error)) from error


def read_meta(folder: Path) -> dict:
    """What was saved beside the arrays: {"config", "system", "recipes", "data", "rank", ...}."""
    try:
        return json.loads((folder / "meta" / "metadata").read_text())
    except (OSError, ValueError) as error:
        raise _Broken(f"meta: {_first_line(error)}") from error


def _meta_or_none(folder: Path) -> dict | None:
    try:
        return read_meta(folder)
    except _Broken:
        return None


def resolve(path: str | Path, step: int | str | None = None) -> Path:
    """The folder of one checkpoint. `path` is a workdir, its `checkpoints` folder, or one checkpoint; `step` a number,
    "best" (by the metric it was trained with) or None for the newest."""
    path = Path(path).absolute()
    if (path / "state").is_dir():
        return path
    folder = path if path.name == FOLDER else path / FOLDER
    steps = _steps(folder)
    if not steps:
        raise UserError("no checkpoint here", where=str(path),
                        expected=f"a workdir of launch.train, with {FOLDER}/<step>/ inside",
                        found="no such folder" if not path.exists() else "none", way_out="train first")
    if step == "best":
        metas = {s: _meta_or_none(folder / str(s)) or {} for s in steps}
        ranked = {s: m["rank"] * (-1 if m.get("best_mode") == "max" else 1) for s, m in metas.items()
                  if m.get("rank") is not None}
        return folder / str(min(ranked, key=ranked.get) if ranked else steps[-1])
    if step is not None and int(step) not in steps:
        raise UserError("no such checkpoint", where=str(folder), expected=f"one of the steps {steps}", found=str(step))
    return folder / str(steps[-1] if step is None else int(step))


def load_params(path: str | Path, system, which: str = "ema", step: int | str | None = None) -> Any:
    """Parameters for generation, evaluation or extraction; see `load`."""
    return load(path, system, which, step)[0]


def load(path: str | Path, system, which: str = "ema", step: int | str | None = None) -> tuple[Any, dict]:
    """(parameters on this process's first device, what was saved beside them with "step" added).

    Args:
      path, step: as for `resolve`. Without `step`, a broken newest checkpoint falls back to the one before it.
      which: "ema" (the average when the checkpoint has one, else the parameters) or "params".

    Raises UserError: no checkpoint, broken, or of another model than `system`.
    """
    newest = resolve(path, step)
    candidates = [newest]
    if step is None and newest != Path(path).absolute():
        candidates += [newest.parent / str(s) for s in reversed(_steps(newest.parent)) if s < int(newest.name)]
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract_params(system))
    problem: Exception | None = None
    for folder in candidates:
        try:
            has_ema = any(name.startswith("ema/") for name in _saved_shapes(folder))
            key = "ema" if which == "ema" and has_ema else "params"
            meta = read_meta(folder)
            return _read_state(folder, {key: shapes}, partial=True)[key], _with_step(meta, folder)
        except _Broken as error:
            problem = problem or error
            logging.getLogger(__name__).warning("checkpoint %s is broken (%s)", folder, error)
    raise UserError("the checkpoint is broken", where=str(newest), found=str(problem), way_out="use another checkpoint")


def warm_start(params: Any, path: str | Path, *, include: Sequence[str] = (".*",), into: str = "",
               of: str = "") -> tuple[Any, str]:
    """Fresh parameters with those of a checkpoint put in their place, e.g. stage 2 from stage 1, or a part from the job
    that trained that part alone.

    Args:
      params: sharded arrays; the result has their shardings.
      path: as for `resolve`; the average is taken when the checkpoint has one.
      include: regular expressions; parameters that none of them matches fully stay fresh.
      into, of: the subtree ("a/b") of `params` that is filled, and the one of the checkpoint that fills it; "" = all.

    Returns:
      (parameters, a line that says what was taken and what stayed fresh).

    Raises UserError: no checkpoint, broken, nothing taken, or an included parameter of another shape.
    """
    folder = resolve(path)
    try:
        _verify(folder)
        saved = _saved_shapes(folder)
    except _Broken as error:
        raise UserError("the checkpoint is broken", where=str(folder), found=str(error),
                        way_out="use another checkpoint") from error
    key = "ema" if any(name.startswith("ema/") for name in saved) else "params"
    leaves = dict(named_leaves(params))
    ours, theirs = (f"{prefix}/" if prefix else "" for prefix in (into, of))
    source = {n: f"{key}/{theirs}{n.removeprefix(ours)}" for n in leaves if n.startswith(ours)}  # our name -> the saved one
    wanted = {n: leaves[n] for n, at in source.items() if any(re.fullmatch(p, n) for p in include) and at in saved}
    for name, leaf in wanted.items():
        if saved[source[name]][0] != leaf.shape:
            raise UserError("a parameter of another shape", where=f"{folder}, {source[name].removeprefix(key + '/')}",
                            expected=str(leaf.shape), found=str(saved[source[name]][0]),
                            way_out="use the sizes it was trained with, or leave it out by config.train.init_include")
    if not wanted:
        raise UserError("the checkpoint has none of these parameters", where=str(folder),
                        expected=", ".join(f"{theirs}{p}" for p in include), found=", ".join(list(saved)[:3]) + ", ...",
                        way_out="check config.train.init_from, init_parts and init_include")
    target: dict = {}
    for name, leaf in wanted.items():
        node = target
        *parents, last = source[name].removeprefix(f"{key}/").split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    with ocp.PyTreeCheckpointer() as reader:
        target = {key: target}
        loaded = reader.restore(folder / "state", args=ocp.args.PyTreeRestore(
            item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True))
    values = dict(named_leaves(loaded[key]))
    flat, tree = jax.tree_util.tree_flatten(params)
    params = jax.tree_util.tree_unflatten(tree, [
        values[source[name].removeprefix(f"{key}/")] if name in wanted else x for name, x in zip(leaves, flat, strict=True)])
    fresh = [name for name in source if name not in wanted]
    note = f"warm start: {len(wanted)} of {len(source)} parameters {f'of {into} ' if into else ''}from {folder}"
    return params, note + (f"; fresh: {', '.join(fresh[:8])}{' ...' if len(fresh) > 8 else ''}" if fresh else "")


def load_meta(path: str | Path, step: int | str | None = None) -> dict:
    """`read_meta` of the checkpoint that `resolve` picks, with "step" added."""
    folder = resolve(path, step)
    try:
        meta = read_meta(folder)
    except _Broken as error:
        raise UserError("the checkpoint is broken", where=str(folder), found=str(error)) from error
    return _with_step(meta, folder)


def _with_step(meta: dict, folder: Path) -> dict:
    return meta | ({"step": int(folder.name)} if folder.name.isdigit() else {})
