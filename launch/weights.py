"""Published checkpoints in, ours out.

  python -m launch.weights inspect FILE
  python -m launch.weights export --workdir=DIR --out=FILE.pt|FILE.safetensors
  python -m launch.weights import --system=avflow|head_vae|talker --file=FILE --workdir=DIR
  [--data=FEATURES]

`inspect` lists every array of a weights file, and what else it leaves unread, without executing it.
`export` writes a trained AV-Flow, head VAE or Talker-T2AV under the published names: a .safetensors
holds the network alone, a .pt is the file that the published code itself saves and loads
(AV-Flow's: iteration, network in its wrapper, optimiser, here a fresh one). `import` makes a
workdir of a published file: with --data, the recipes and codecs of that feature dataset go along,
and launch.generate can use it (the weights must have been trained on features made by those
codecs); launch.train goes on from it. `--system=talker` also takes a Qwen3 language model alone: it
becomes the backbone and the rest is fresh, to be trained in that workdir, or from it by
--config.train.init_from.
"""

import contextlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import safetensors.numpy
from absl import flags, logging
from ml_collections import ConfigDict

from avjax.checkpoint.checkpoints import FOLDER, Checkpoints, load_meta
from avjax.checkpoint.loading import load
from avjax.errors import UserError
from avjax.sharding.mesh import make_mesh
from avjax.sharding.rules import named_leaves
from avjax.storage import lock
from avjax.systems.api import build
from avjax.systems.avflow import published as avflow
from avjax.systems.talker import published as talker
from avjax.training.optimizer import make_optimizer
from avjax.training.state import abstract_params, abstract_state
from avjax.weights.names import PREFIXED
from avjax.weights.plain_pickle import Foreign
from avjax.weights.reader import file_sha256, flatten, read_checkpoint, read_state_dict
from avjax.weights.torch_writer import write_torch_zip
from configs import avflow_released, head_vae, talker_0_6b
from data_pipelines.store.dataset import open_dataset
from launch.flags import define_config, run
from launch.training import CONFIG_FILE, plain, write_run_files


class System(NamedTuple):
    """How one network is published."""

    experiment: object  # module with the published get_config()
    read: Callable  # (published state dict, config) -> our parameters
    write: Callable  # (our parameters, config) -> published state dict
    file: Callable = lambda state, step: state  # -> what the published code saves as a .pt


SYSTEMS = {"avflow": System(avflow_released, avflow.import_avflow, avflow.export_avflow,
                            avflow.trainer_file),
           "head_vae": System(head_vae, avflow.import_head_vae, avflow.export_head_vae,
                              avflow.head_vae_file),
           "talker": System(talker_0_6b, talker.import_talker, talker.export_talker)}
# the release's widths
DYADIC = (("partner_token_dim", 29), ("partner_expression_dim", 55), ("partner_head_dim", 3))

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training job: read by export, made by "
                                               "import.")
OUT = flags.DEFINE_string("out", None, "export: the .pt or .safetensors file to write; must not "
                          "exist.")
STEP = flags.DEFINE_string("step", None, "export: which checkpoint (a number or best); default the "
                           "newest.")
AVERAGE = flags.DEFINE_boolean("average", True, "export: the average of the parameters, where the "
                                                "job kept one.")
SYSTEM = flags.DEFINE_enum("system", None, tuple(SYSTEMS), "import: whose weights the file holds.")
FILE = flags.DEFINE_string("file", None, "import: a published .safetensors, .npz, .pt, .pth, .ckpt "
                           "or .bin; of several files "
                           "the index, or their folder.")
SELECT = flags.DEFINE_string("select", None, "import: key of the weights inside the file (default: "
                                             "found).")
DATA = flags.DEFINE_string("data", None, "import: feature dataset whose recipes and codecs decode "
                           "the streams.")
# import: the experiment; default that of our .safetensors, or the published one, sized
CONFIG = define_config()


def describe(path: str) -> str:
    """A table of every array: name, shape, dtype, bytes; what was left unread; then totals and the
    file's SHA-256."""
    tree = read_checkpoint(path, foreign=True)
    arrays = flatten(tree)
    rows = [(name, str(tuple(a.shape)), str(a.dtype), f"{a.nbytes:,}") for name,
            a in arrays.items()]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
    lines = ["  ".join((row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].ljust(widths[2]),
                        row[3].rjust(widths[3]))) for row in rows]
    total = sum(a.nbytes for a in arrays.values())
    numbers = sum(a.size for a in arrays.values())
    lines += [f"{name}  {value}" for name, value in flatten(tree, kind=Foreign).items()]
    return "\n".join([*lines, f"{len(rows)} arrays, {numbers:,} numbers, {total:,} bytes",
                      f"sha256 {file_sha256(path)}"])


def export(workdir: str, out: str, *, step: str | None = None, average: bool = True) -> int:
    """Writes a workdir's parameters under the published names; returns how many arrays. A .pt is
    the published code's own file; a .safetensors has the system's config in its metadata.
    UserError: no checkpoint, a system without published names, or `out` exists."""
    if not out.endswith((".pt", ".safetensors")) or os.path.lexists(out):
        raise UserError("cannot write the weights", where=out,
                        expected="a new file that ends in .pt or .safetensors",
                        found="it exists" if os.path.lexists(out) else "another ending",
                        hint="choose another --out")
    config = ConfigDict(load_meta(workdir, step)["config"]["system"])
    if config.name not in SYSTEMS:
        raise UserError("this system has no published names", where=workdir,
                        expected=" or ".join(SYSTEMS), found=config.name,
                        hint="use its Orbax checkpoint as it is")
    params, meta = load(workdir, build(config), "ema" if average else "params", step)
    system = SYSTEMS[config.name]
    state = system.write(jax.tree.map(np.asarray, params), config)
    temporary = str(Path(out).with_name(f".{Path(out).name}.tmp"))
    try:
        if out.endswith(".pt"):
            write_torch_zip(temporary, system.file(state, meta.get("step", 0)))
        else:  # transformers refuses a file without a format
            Path(temporary).touch()
            mode = os.stat(temporary).st_mode
            # see findings/safetensors_transposed.sh
            state = {n: np.ascontiguousarray(x) for n, x in state.items()}
            safetensors.numpy.save_file(state, temporary,
                                        {"format": "pt", "system": json.dumps(config.to_dict())})
            os.chmod(temporary, mode)  # safetensors 0.8 makes files that nobody else may read
        os.replace(temporary, out)
    # the latter for what the disk refuses, too
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError("cannot write the weights", where=out, found=str(error),
                        hint="choose another --out") from error
    finally:
        with contextlib.suppress(OSError):  # in what is no folder there is nothing to remove
            Path(temporary).unlink(missing_ok=True)
    return len(state)


def published_config(system: str, state: dict[str, np.ndarray]) -> ConfigDict:
    """The published experiment, with the sizes that the weights show. What they do not show
    (numbers of heads, windows, patch, delay) is as published. UserError: another network's weights;
    AV-Flow conditions of neither release's widths."""
    config = SYSTEMS[system].experiment.get_config()
    if system == "avflow":
        sizes = avflow.avflow_sizes(state)
        rest = sizes["condition_dim"] - config.system.token_dim
        if rest not in (0, sum(width for _, width in DYADIC)):
            raise UserError("the network's conditions are not the release's",
                            where="input_proj_a.weight",
                            expected="29 inputs beside the mel, or 116 in a dyadic network",
                            found=str(sizes["condition_dim"]),
                            hint="pass --config with token, identity and partner widths")
        config.system.update({k: sizes[k] for k in ("d_model", "d_ff", "num_blocks", "mel_dim")})
        config.system.face_dim = sizes["visual_dim"] - config.system.head_dim
        if rest:
            config.system.update(dict(DYADIC))
    elif system == "talker":
        alone = talker.is_backbone(state)
        config.system.update(talker.backbone_sizes(state) if alone else talker.talker_sizes(state))
    else:
        for field, name, axis in (("pose_dim", "encoder.0.weight", 1),
                                  ("d_model", "encoder.0.weight", 0),
                                  ("latent_dim", "fc_mu.weight", 0)):
            if name not in state:
                raise UserError("not a head VAE's state dict", expected=f"an entry {name}",
                                found=", ".join(list(state)[:3]), hint=PREFIXED)
            config.system[field] = state[name].shape[axis]
    return config


def import_file(system: str, file: str, workdir: str, *, config: ConfigDict | None = None,
                data: str | None = None,
                select: str | None = None) -> ConfigDict:
    """A workdir with one checkpoint, step 0, of a published file; returns its config.

    The checkpoint is a whole training state (fresh optimiser), so that training can go on from it.
    UserError: file not readable or of another network than the config's; workdir in use; `data`
      missing.
    """
    folder = Path(workdir)
    _check_free(folder)
    dataset = open_dataset(data) if data else None
    state = read_state_dict(file, select)
    if config is None:
        try:
            config = exported_config(system, file) or published_config(system, state)
        except (IndexError, ValueError) as error:  # an array of other dimensions
            raise UserError("the weights are of another network", where=file,
                            expected=f"those of {system}",
                            found=f"an array of other dimensions ({error})",
                            hint=PREFIXED) from error
    elif config.system.name != system:
        raise UserError("--config is of another system", where="config.system.name",
                        expected=system,
                        found=config.system.name)
    if data:
        config.data.dir = os.path.abspath(data)
    model = build(config.system)
    params = parameters(system, state, config, model)
    expected = abstract_params(model)
    _check_fit(params, expected, file)

    temporary = folder.with_name(f".{folder.name}.importing")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UserError("the workdir cannot be made", where=workdir, found=str(error),
                        hint="choose another --workdir") from error
    try:
        mesh = make_mesh(config.mesh)
        optimizer = make_optimizer(config.optimizer, int(config.train.steps), expected)
        with jax.set_mesh(mesh):
            target = abstract_state(model, optimizer, mesh, ema=config.optimizer.ema_decay > 0)
            full = {key: jax.tree.map(lambda x,
                                      place: jax.device_put(np.asarray(x, place.dtype),
                                                            place.sharding),
                                      params, target[key]) for key in ("params", "ema")
                    if key in target}
            places = jax.tree.map(lambda x: x.sharding, target["opt_state"])
            full["opt_state"] = jax.jit(optimizer.transform.init,
                                        out_shardings=places)(full["params"])
            full["step"] = jax.device_put(np.zeros((), target["step"].dtype),
                                          target["step"].sharding)
            meta = {"config": plain(config), "best_mode": config.train.best_mode,
                    "system": system, "data": {"next_index": 0}, "recipes": dataset.recipes
                    if dataset else {},
                    "imported": {"file": Path(file).name, "sha256": file_sha256(file)}}
            checkpoints = Checkpoints(temporary)
            checkpoints.save(0, full, meta)
            checkpoints.close()
        if dataset:
            write_run_files(config, temporary, dataset)
        else:
            (temporary / CONFIG_FILE).write_text(json.dumps(plain(config), indent=1))
        _check_free(folder)  # a training may have begun in it meanwhile
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return config


def exported_config(system: str, file: str) -> ConfigDict | None:
    """The experiment with the system that `export` wrote into a .safetensors; None if the file is
    not of ours. Numbers of
    heads do not show in the weights: with the published ones, another run's would be read without a
    word."""
    if not file.endswith(".safetensors") or not os.path.isfile(file):
        return None
    with safetensors.safe_open(file, "np") as opened:
        ours = json.loads((opened.metadata() or {}).get("system", "{}"))
    if not isinstance(ours, dict) or ours.get("name") != system:
        return None
    config = SYSTEMS[system].experiment.get_config()
    config.system = ConfigDict(ours)
    return config


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        inside = sorted(p.name for p in folder.iterdir())[:5] if folder.is_dir() else ["a file"]
        raise UserError("the workdir is in use", where=str(folder),
                        expected="a new or empty folder", found=", ".join(inside),
                        hint="choose another --workdir")


def parameters(system: str, state: dict[str, np.ndarray], config: ConfigDict, model) -> dict:
    """A published state dict as parameters of `model`. Beside a language model alone, the rest is
    drawn by config.seed."""
    if system != "talker" or not talker.is_backbone(state):
        return SYSTEMS[system].read(state, config.system)
    backbone = talker.import_backbone(state, config.system)
    rest = jax.jit(lambda key: {part: leaves for part, leaves in model.init(key).items() if part
                                != "backbone"})
    return rest(jax.random.key(config.seed)) | {"backbone": backbone}


def _check_fit(params, expected, file: str) -> None:
    found = {name: tuple(leaf.shape) for name, leaf in named_leaves(params)}
    wanted = {name: tuple(leaf.shape) for name, leaf in named_leaves(expected)}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise UserError("the weights do not fit the config", where=f"{file}, {name}",
                            expected=str(wanted.get(name, "absent")),
                            found=str(found.get(name, "absent")),
                            hint="set the sizes with --config")
    for name, leaf in named_leaves(params):
        with np.errstate(over="ignore"):  # of float64, which is told here
            finite = np.isfinite(np.asarray(leaf, np.float32))
        if not finite.all():
            raise UserError("the weights hold numbers that are not finite", where=f"{file}, {name}",
                            expected="float32 numbers",
                            found=f"{finite.size - finite.sum()} of {finite.size} are not",
                            hint="take an earlier checkpoint, or save it in float32")


def _need(**values):
    for name, value in values.items():
        if not value:
            raise UserError(f"--{name} is missing", hint="python -m launch.weights --help lists "
                                                         "the three commands")


def main(command):
    logging.set_verbosity(logging.ERROR)  # Orbax reports every file it touches
    match command:
        case ["inspect", path]:
            print(describe(path))
        case ["export"]:
            _need(workdir=WORKDIR.value, out=OUT.value)
            with lock.hold(lock.beside(OUT.value), "the file", OUT.value):
                count = export(WORKDIR.value, OUT.value, step=STEP.value, average=AVERAGE.value)
            print(f"{OUT.value}: {count} arrays, sha256 {file_sha256(OUT.value)}")
        case ["import"]:
            _need(system=SYSTEM.value, file=FILE.value, workdir=WORKDIR.value)
            with lock.hold(lock.beside(WORKDIR.value), "the workdir", WORKDIR.value):
                config = import_file(SYSTEM.value, FILE.value, WORKDIR.value, config=CONFIG.value,
                                     data=DATA.value,
                                     select=SELECT.value)
            print(f"{WORKDIR.value}/{FOLDER}/0: {SYSTEM.value}, "
                  f"{json.dumps(config.system.to_dict(), default=str)}")
        case other:
            raise UserError("unknown command", expected="inspect FILE, export or import",
                            found=" ".join(other) or "none", hint="python -m launch.weights --help")


if __name__ == "__main__":
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    del sys.argv[1:1 + len(words)]  # the flags' parser takes no positional arguments
    run(lambda argv: main(words), needs_config=False)
