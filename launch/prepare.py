"""Raw media -> a dataset: python -m launch.prepare --dataset=clips --source=DIR --out=DIR

`--dataset` names a file of data_pipelines/ingest with a function `prepare`; flags go to its arguments of the same name.
"""

import importlib
import inspect
import pkgutil

from absl import flags

from avjax.errors import UserError
from data_pipelines import ingest
from launch import flags as launch_flags

flags.DEFINE_string("dataset", None, "What is being brought in: a file of data_pipelines/ingest.", required=True)
flags.DEFINE_string("source", None, "Folder of the raw media.")
flags.DEFINE_string("out", None, "Folder to make datasets in.", required=True)
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
flags.DEFINE_integer("dialogues", None, "Two-party dialogues to make besides, for --dataset=puppets.", lower_bound=0)
flags.DEFINE_integer("seed", None, "Of whatever the dataset draws at random.")
flags.DEFINE_string("statistics", None, "Folder of motion_mean.npy and motion_std.npy, for --dataset=talker.")
flags.DEFINE_string("tts", None, "List of wav files with .json sidecars, to add as speech without motion.")
flags.DEFINE_float("valid_share", None, "Share of recordings held out where the data holds none out.", 0.0, 1.0)
flags.DEFINE_float("max_bad", None, "Largest share of unusable rows to put up with.", 0.0, 1.0)
flags.DEFINE_string("recording", None, "Pattern whose first group in a sample's id names its recording.")
flags.DEFINE_bool("trim_audio", None, "Cut sound that is longer than its motion.")
flags.DEFINE_integer("threads", None, "That decode in parallel.", lower_bound=1)
_OWN = ("dataset", "source", "out", "tokens", "weights", "units", "speaker", "longest_identity", "audio_only",
        "max_seconds", "components", "size", "minutes", "dialogues", "seed", "statistics", "tts", "valid_share", "max_bad",
        "recording", "trim_audio", "threads")


def known() -> list[str]:
    """Names that --dataset takes."""
    return sorted(m.name for m in pkgutil.iter_modules(ingest.__path__) if not m.name.startswith("_"))


def prepare(dataset: str, **arguments):
    """Calls data_pipelines.ingest.<dataset>.prepare. Raises UserError: unknown dataset, argument it does not take."""
    if dataset not in known():
        raise UserError("unknown dataset", where="--dataset", expected=f"one of {', '.join(known())}",
                        found=repr(dataset))
    function = importlib.import_module(f"data_pipelines.ingest.{dataset}").prepare
    parameters = inspect.signature(function).parameters
    for name in arguments:
        if name not in parameters:
            raise UserError(f"--dataset={dataset} has no --{name}", where=f"--{name}",
                            expected=", ".join(f"--{p}" for p in parameters if p in _OWN), found=f"--{name}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise UserError(f"--dataset={dataset} needs --{name}", where="command line", expected=f"--{name}=...")
    return function(**arguments)


def main(argv):
    del argv
    values = {name: flags.FLAGS[name].value for name in _OWN}
    prepare(**{name: value for name, value in values.items() if value is not None})


if __name__ == "__main__":
    launch_flags.run(main, needs_config=False)
