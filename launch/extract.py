"""Clips -> features: python -m launch.extract --clips=DIR --out=DIR [--features=talker] [--tokens=units] [...]

Prints the new dataset's schema, splits and durations. Flags of one family of features are refused with another.
"""

from absl import flags

from avjax.errors import UserError
from data_pipelines import extract, inspect, resample
from data_pipelines.features import avflow, talker
from launch import flags as launch_flags

CLIPS = flags.DEFINE_string("clips", None, "Clip dataset made by launch.prepare.", required=True)
OUT = flags.DEFINE_string("out", None, "Feature dataset to make; must not exist.", required=True)
FEATURES = flags.DEFINE_enum("features", "avflow", extract.FEATURES, "Which systems are to read them.")
AVFLOW = {
    "tokens": flags.DEFINE_enum("tokens", "phones", avflow.TOKENS, "avflow: what the model is told to say it by."),
    "head": flags.DEFINE_enum("head", "linear", avflow.HEADS, "avflow: how head pose is coded."),
    "head_vae": flags.DEFINE_string("head_vae", None, "avflow: workdir or checkpoint of a trained head VAE, for --head=vae."),
    "weights": flags.DEFINE_string("weights", None, "avflow: wav2vec2 CTC checkpoint, for --tokens=wav2vec2."),
    "units": flags.DEFINE_integer("units", avflow.UNITS, "avflow: number of k-means units, for --tokens=units.",
                                  lower_bound=2),
    "seed": flags.DEFINE_integer("seed", 0, "avflow: of the k-means fit."),
    "mode": flags.DEFINE_enum("resample", "timestamps", resample.MODES,
                              "avflow: by time, or by stretching lengths as the published code does."),
}
TALKER = {
    "tokenizer": flags.DEFINE_string("tokenizer", None, "talker: Qwen3's tokenizer.json; without it, a byte-level BPE is "
                                     "trained on the clips' texts."),
    "vocabulary": flags.DEFINE_integer("vocabulary", talker.STAND_IN_VOCABULARY, "talker: size of that BPE.",
                                       lower_bound=258),
    "placeholder": flags.DEFINE_string("placeholder", "", "talker: prompt of clips without a transcript; without it they are "
                                       "refused."),
    "speech_only": flags.DEFINE_float("speech_only", 0.0, "talker: share of the training clips whose motion is left out, "
                                      "to learn text to speech from.", lower_bound=0.0, upper_bound=0.99),
    "multiple": flags.DEFINE_integer("multiple", 1, "talker: extend every clip to a multiple of so many frames, by silence; "
                                     "the model's patch, 4, leaves no partial patch.", lower_bound=1),
    "voice": flags.DEFINE_enum("voice", "auto", talker.VOICES, "talker: whose utterance gives the voice vector."),
}


def main(argv):
    del argv
    own, other = (AVFLOW, TALKER) if FEATURES.value == "avflow" else (TALKER, AVFLOW)
    for flag in other.values():
        if flag.present:
            raise UserError(f"--{flag.name} means nothing here", where=f"--features={FEATURES.value}",
                            expected=", ".join(f"--{f.name}" for f in own.values()), found=f"--{flag.name}",
                            way_out="leave it out, or pick the other --features")
    dataset = extract.extract(CLIPS.value, OUT.value, features=FEATURES.value, **{k: f.value for k, f in own.items()})
    print(inspect.text(inspect.summary(dataset)))


if __name__ == "__main__":
    launch_flags.run(main, needs_config=False)
