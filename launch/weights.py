"""Imports published checkpoints and exports ours.

  avjax weights inspect FILE
  avjax weights export --workdir=DIR --out=FILE.pt|FILE.safetensors
  avjax weights export --workdir=DIR --folder=RELEASE
  avjax weights import --system=NAME --file=FILE --workdir=DIR
  [--data=FEATURES]
  avjax weights import --system=avflow|talker|tavid.visual --folder=RELEASE --workdir=DIR
  avjax weights import --system=units --file=NETWORK --centroids=FILE.npy --workdir=UNITS
  [--layer=35] [--num_units=10000]
  avjax weights export --workdir=UNITS|FEATURES --out=FILE.npy
  avjax weights export --workdir=UNITS --out=FOLDER/model.safetensors|FOLDER/pytorch_model.bin

`inspect` lists every array of a weights file, and what else it leaves unread, without executing it.
`export` writes a trained system that has published weights (AV-Flow, its text to tokens, the
head VAE, Talker-T2AV, BigVGAN, of TAVID the networks of Hallo2, the unit Voicebox, the picture VAE
and the ResNet-18 of portraits) under the published names: a .safetensors holds the network alone,
a .pt is the file that the published code itself saves and loads (AV-Flow's: iteration, network in
its wrapper, optimizer, here a fresh one). With --folder, Talker-T2AV becomes a release as its
owners lay it out: beside the network its tokenizer, chat template and config, and of what is frozen
around it the statistics and the files that the workdir holds; what the published code cannot load
is told.
`import` makes a workdir of a published file, from which launch.train continues: with
--data, the recipes and codecs of that feature dataset are copied along, and launch.generate can use
it (the weights must have been trained on features made by those codecs). `--system=talker` also
takes a Qwen3 language model alone: it becomes the backbone and the rest is fresh, to be trained in
that workdir, or from it by --config.train.init_from. `--system=tavid.visual` also takes Stable
Diffusion 1.5's U-Net, or a folder with it and AnimateDiff's motion modules (docs/tavid.md).
`--folder` imports a whole release, AV-Flow's (docs/avflow_release.md), Talker-T2AV's
(docs/talker.md) or Hallo2's (docs/tavid.md): the network (--file chooses among several), and beside
it in WORKDIR all that reads what drives it and makes sound and pictures of its streams; then avjax
generate needs nothing else.
`--system=units` binds a speech network (XLS-R, HuBERT, WavLM, wav2vec 2.0; frozen, so it is kept as
published) to the centroids of one of its layers, once both are read and fit: avjax extract
--unit_encoder=UNITS then takes no other layer, and UNITS/centroids.npy begins the Motion Mapper's
rows (docs/tavid.md). `export` to a .npy writes centroids, also those that extraction has fitted; to
another file the network, under transformers' names and with its config.json beside it, whatever
names it was published under: transformers loads that folder.
"""

import itertools
import json
import sys

from absl import flags, logging

from avjax.checkpoint.files import FOLDER
from avjax.encoders.published import bound_units
from avjax.errors import UserError
from avjax.storage import lock
from avjax.weights.reader import file_sha256
from launch.flags import define_config, run
from launch.jobs import release, units, weights

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training job: read by export, made by "
                                               "import.")
OUT = flags.DEFINE_string("out", None, "export: the .pt or .safetensors file to write (of units "
                          "also .bin, or .npy for the centroids); must not exist.")
STEP = flags.DEFINE_string("step", None, "export: which checkpoint (a number or best); default the "
                           "newest.")
AVERAGE = flags.DEFINE_boolean("average", True, "export: the average of the parameters, where the "
                                                "job kept one.")
SYSTEM = flags.DEFINE_string("system", None, "import: the system whose weights the file holds; an "
                             "unknown name lists those that have published weights.")
FILE = flags.DEFINE_string("file", None, "import: a published .safetensors, .npz, .pt, .pth, .ckpt "
                           "or .bin; of several files "
                           "the index, or their folder.")
RELEASE = flags.DEFINE_string("folder", None, "A release as its owners lay it out: import it "
                              "instead of --file (docs/avflow_release.md), or export to this new "
                              "folder instead of --out (docs/talker.md).")
SELECT = flags.DEFINE_string("select", None, "import: key of the weights inside the file (default: "
                                             "found).")
CENTROIDS = flags.DEFINE_string("centroids", None, "import, --system=units: the published table "
                                "(units, width), a .npy.")
LAYER = flags.DEFINE_integer("layer", None, "import, --system=units: the layer that the centroids "
                             "are of; default 35, TAVID's.", lower_bound=0)
NUM_UNITS = flags.DEFINE_integer("num_units", None, "import, --system=units: how many centroids "
                                 "there must be; default: as many as there are.", lower_bound=1)
DATA = flags.DEFINE_string("data", None, "import: feature dataset whose recipes and codecs decode "
                           "the streams.")
# import: the experiment; default that of our .safetensors, or the published one, sized
CONFIG = define_config()


def _need(**values):
    for name, value in values.items():
        if not value:
            raise UserError(f"--{name} is missing", hint="avjax weights --help lists "
                                                         "the three commands")


def _refuse_beside(system, **values):
    for name, value in values.items():
        if value is not None:
            raise UserError("a flag that this import does not take", where=f"--{name}",
                            expected=f"none with --system={system}", found=str(value)[:40],
                            hint="leave it out")


def imported():
    """The config of what --file or --folder was made into."""
    if RELEASE.value is None:
        return weights.import_file(SYSTEM.value, FILE.value, WORKDIR.value, config=CONFIG.value,
                                   data=DATA.value, select=SELECT.value)
    for name, value in (("data", DATA.value), ("select", SELECT.value)):
        if value:
            raise UserError(f"--{name} beside --folder", where=f"--{name}", hint="leave it out")
    return release.import_folder(SYSTEM.value, RELEASE.value, WORKDIR.value, file=FILE.value,
                                 config=CONFIG.value)


def main(command):
    logging.set_verbosity(logging.ERROR)  # Orbax reports every file it touches
    match command:
        case ["inspect", path]:
            print(weights.describe(path))
        case ["export"]:
            if RELEASE.value and OUT.value:
                raise UserError("--out beside --folder", where="--out, --folder",
                                hint="leave one of them out")
            if RELEASE.value:
                _need(workdir=WORKDIR.value)
                with lock.hold(lock.beside(RELEASE.value), "the folder", RELEASE.value):
                    release.export_folder(WORKDIR.value, RELEASE.value, step=STEP.value,
                                          average=AVERAGE.value)
                return
            _need(workdir=WORKDIR.value, out=OUT.value)
            if OUT.value.endswith(".npy"):
                print(f"{OUT.value}: {units.take_out(WORKDIR.value, OUT.value)} centroids")
                return
            with lock.hold(lock.beside(OUT.value), "the file", OUT.value):
                if bound := bound_units.read(WORKDIR.value):
                    count = units.take_out_network(bound, OUT.value)
                else:
                    count = weights.export(WORKDIR.value, OUT.value, step=STEP.value,
                                           average=AVERAGE.value)
            print(f"{OUT.value}: {count} arrays, sha256 {file_sha256(OUT.value)}")
        case ["import"] if SYSTEM.value == units.NAME:
            _need(file=FILE.value, centroids=CENTROIDS.value, workdir=WORKDIR.value)
            _refuse_beside(SYSTEM.value, folder=RELEASE.value, data=DATA.value, select=SELECT.value,
                           config=CONFIG.value)
            layer = bound_units.LAYER if LAYER.value is None else LAYER.value
            with lock.hold(lock.beside(WORKDIR.value), "the folder", WORKDIR.value):
                print(f"{WORKDIR.value}: " + units.bring_in(
                    FILE.value, CENTROIDS.value, WORKDIR.value, layer=layer,
                    count=NUM_UNITS.value))
        case ["import"]:
            _refuse_beside(SYSTEM.value, centroids=CENTROIDS.value, layer=LAYER.value,
                           num_units=NUM_UNITS.value)
            _need(system=SYSTEM.value, workdir=WORKDIR.value,
                  **({} if RELEASE.value else {"file": FILE.value}))
            with lock.hold(lock.beside(WORKDIR.value), "the workdir", WORKDIR.value):
                config = imported()
            print(f"{WORKDIR.value}/{FOLDER}/0: {SYSTEM.value}, "
                  f"{json.dumps(config.system.to_dict(), default=str)}")
        case other:
            raise UserError("unknown command", expected="inspect FILE, export or import",
                            found=" ".join(other) or "none", hint="avjax weights --help")


if __name__ == "__main__":
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    del sys.argv[1:1 + len(words)]  # the flags' parser takes no positional arguments
    run(lambda argv: main(words), needs_config=False)
