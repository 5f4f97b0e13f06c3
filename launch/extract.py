"""Clips -> features: python -m launch.extract --clips=DIR --out=DIR [--tokens=units] [--head=vae --head_vae=DIR]

Prints the new dataset's schema, splits and durations.
"""

from absl import flags

from data_pipelines import extract, inspect, resample
from launch import flags as launch_flags

CLIPS = flags.DEFINE_string("clips", None, "Clip dataset made by launch.prepare.", required=True)
OUT = flags.DEFINE_string("out", None, "Feature dataset to make; must not exist.", required=True)
TOKENS = flags.DEFINE_enum("tokens", "phones", extract.TOKENS, "What the model is told to say it by.")
HEAD = flags.DEFINE_enum("head", "linear", extract.HEADS, "How head pose is coded.")
HEAD_VAE = flags.DEFINE_string("head_vae", None, "Workdir or checkpoint of a trained head VAE, for --head=vae.")
WEIGHTS = flags.DEFINE_string("weights", None, "wav2vec2 CTC checkpoint, for --tokens=wav2vec2.")
UNITS = flags.DEFINE_integer("units", extract.UNITS, "Number of k-means units, for --tokens=units.", lower_bound=2)
SEED = flags.DEFINE_integer("seed", 0, "Of the k-means fit.")
RESAMPLE = flags.DEFINE_enum("resample", "timestamps", resample.MODES,
                             "By time, or by stretching lengths as the published code does.")


def main(argv):
    del argv
    dataset = extract.extract(CLIPS.value, OUT.value, tokens=TOKENS.value, head=HEAD.value, head_vae=HEAD_VAE.value,
                              weights=WEIGHTS.value, units=UNITS.value, seed=SEED.value, mode=RESAMPLE.value)
    print(inspect.text(inspect.summary(dataset)))


if __name__ == "__main__":
    launch_flags.run(main, needs_config=False)
