"""Raw media -> a dataset: python -m launch.prepare --dataset=clips --source=DIR --out=DIR

`--dataset` names a file of data_pipelines/ingest with a function `prepare`; flags go to its
arguments of the same name.

`--runner=beam [--beam_options="--runner=FlinkRunner --flink_master=host:8081"]` lets Apache Beam's
workers do the work, by default this machine's cores; they have to see the same folders. A dataset
that is made in parts (talker) can also be shared by several processes, --processes=N, --shard=I/N,
or started once a host; see launch/workers.py. The dataset is the same.
"""

import importlib
import inspect
import pkgutil
from types import ModuleType

from absl import flags

from avjax.errors import UserError
from data_pipelines import ingest
from data_pipelines.store import beam
from data_pipelines.store.merge import Part
from launch import flags as launch_flags
from launch import workers

flags.DEFINE_string("dataset", None, "What is being brought in: a file of data_pipelines/ingest.",
                    required=True)
flags.DEFINE_string("source", None, "Folder of the raw media.")
flags.DEFINE_string("out", None, "Folder to make datasets in; clips that are there take in what "
                    "has changed in --source.",
                    required=True)
flags.DEFINE_string("tokens", None, "units (weightless) or wav2vec2 (needs --weights).")
flags.DEFINE_string("weights", None, "wav2vec2 CTC checkpoint, for --tokens=wav2vec2.")
flags.DEFINE_integer("units", None, "Number of k-means units, for --tokens=units.", lower_bound=2)
flags.DEFINE_string("speaker", None, "Only this speaker's recordings.")
flags.DEFINE_bool("longest_identity", None, "Only the speaker with most usable material.")
flags.DEFINE_bool("audio_only", None, "Accept sound without pictures; clips then have no face.")
flags.DEFINE_float("max_seconds", None, "Longest clip.", lower_bound=1.0)
flags.DEFINE_integer("components", None, "Numbers in a face code.", lower_bound=1)
flags.DEFINE_integer("size", None, "Side of a face crop, pixels.", lower_bound=16)
flags.DEFINE_float("minutes", None, "How much to make, for --dataset=puppets.", lower_bound=0.1)
flags.DEFINE_integer("dialogues", None, "Two-party dialogues to make besides, for "
                                        "--dataset=puppets.", lower_bound=0)
flags.DEFINE_integer("seed", None, "Of whatever the dataset draws at random.")
flags.DEFINE_string("statistics", None, "Folder of motion_mean.npy and motion_std.npy, for "
                                        "--dataset=talker.")
flags.DEFINE_string("tts", None, "List of wav files with .json sidecars, to add as speech without "
                    "motion.")
flags.DEFINE_float("valid_share", None, "Share of recordings held out where the data holds none "
                                        "out.", 0.0, 1.0)
flags.DEFINE_float("max_bad", None, "Largest share of unusable rows to put up with.", 0.0, 1.0)
flags.DEFINE_string("recording", None, "Pattern whose first group in a sample's id names its "
                                       "recording.")
flags.DEFINE_bool("trim_audio", None, "Cut sound that is longer than its motion.")
flags.DEFINE_integer("threads", None, "That decode in parallel.", lower_bound=1)
flags.DEFINE_enum("runner", "here", ("here", "beam"), "Who does the work.")
flags.DEFINE_string("beam_options", "", "Options of Apache Beam, for --runner=beam.")
flags.DEFINE_integer("parts", 64, "Into how many a dataset is cut for Beam: several times the "
                     "workers.", lower_bound=1)
workers.define_flags()
_OWN = ("dataset", "source", "out", "tokens", "weights", "units", "speaker", "longest_identity",
        "audio_only", "max_seconds", "components", "size", "minutes", "dialogues", "seed",
        "statistics", "tts", "valid_share", "max_bad",
        "recording", "trim_audio", "threads")


def known() -> list[str]:
    """Names that --dataset takes."""
    return sorted(m.name for m in pkgutil.iter_modules(ingest.__path__) if m.name != "common")


def prepare(dataset: str, **arguments):
    """Calls data_pipelines.ingest.<dataset>.prepare. Raises UserError: unknown dataset, argument it
    does not take."""
    function = checked(dataset, **arguments)
    with workers.sole_maker(arguments["out"]):
        return function(**arguments)


def checked(dataset: str, **arguments):
    """The function that `prepare` calls. Raises UserError as it does."""
    function = _ingest(dataset).prepare
    parameters = inspect.signature(function).parameters
    for name in arguments:
        if name not in parameters:
            raise UserError(f"--dataset={dataset} has no --{name}", where=f"--{name}",
                            expected=", ".join(f"--{p}" for p in parameters if p in _OWN),
                            found=f"--{name}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise UserError(f"--dataset={dataset} needs --{name}", where="command line",
                            expected=f"--{name}=...")
    return function


def _ingest(dataset: str) -> ModuleType:
    if dataset not in known():
        raise UserError("unknown dataset", where="--dataset",
                        expected=f"one of {', '.join(known())}", found=repr(dataset))
    return importlib.import_module(f"data_pipelines.ingest.{dataset}.prepare")


def main(argv):
    del argv
    args = flags.FLAGS
    values = {name: args[name].value for name in _OWN if args[name].value is not None}
    in_parts = getattr(_ingest(args.dataset), "PARTS", False)
    if args.runner == "beam":
        if args.processes or args.shard:
            raise UserError("Beam has its own workers", where="--runner=beam",
                            hint="leave out --processes and --shard")
        prepare(**values, parallel=beam.Beam(args.beam_options, args.parts))
        return
    out = workers.part_of(args.out, args.shard)
    if not in_parts and (args.processes or isinstance(out, Part)):
        raise UserError(f"--dataset={args.dataset} is made by one process", where="command line",
                        expected="neither --processes "
                        "nor --shard, and one host", hint="--runner=beam, whose workers help that "
                                                          "process")
    workers.spread("launch.prepare", args.out)
    if prepare(**(values | {"out": out})) is None and isinstance(out, Part):
        workers.end(out, args.shard)


if __name__ == "__main__":
    launch_flags.run(main, needs_config=False)
