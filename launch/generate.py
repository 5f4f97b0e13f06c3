"""Lets a trained avatar speak: `python -m launch.generate --workdir=DIR --text="..."` (or `--audio=FILE`).

Writes OUT.mp4 (face with sound) and OUT.wav. Text becomes timed phonemes by espeak-ng, audio becomes the tokens that
the model was trained on; the sound, the face and the head motion are all AV-Flow's.
"""

import json
import pathlib
import time
import zlib

import jax
import numpy as np
import soundfile
from absl import flags
from ml_collections import ConfigDict

from avjax.codecs import mel
from avjax.errors import UserError
from avjax.systems import api
from avjax.training import checkpoints
from avjax.training.hardware import enable_compilation_cache
from data_pipelines import decode, drive, media
from launch import flags as launch_flags

MAX_CHARACTERS = 2000  # about two minutes of speech
BUCKET = 128  # frames; lengths are padded to multiples of it


def generate(workdir, *, text: str = "", audio: str = "", out=None, speaker: str = "", seed: int = 0, steps: int = 0,
             step: int | None = None) -> dict[str, pathlib.Path]:
    """Speaks one sentence. Returns {"mp4": path, "wav": path}.

    Raises UserError for unusable text or audio, unknown speakers, and folders that hold no trained AV-Flow.
    """
    if bool(text) == bool(audio):
        raise UserError("nothing to say" if not text else "two things to say", where="--text, --audio",
                        expected="exactly one of them", found="neither" if not text else "both")
    if len(text) > MAX_CHARACTERS:
        raise UserError("text too long", where="--text", expected=f"at most {MAX_CHARACTERS} characters",
                        found=f"{len(text)}", way_out="split it into sentences and generate each")
    workdir = pathlib.Path(workdir)
    config = load_config(workdir)
    if steps:
        config.system.euler_steps = steps
    system = api.build(config.system)
    if "tokens" not in system.conditions_spec:
        raise UserError("this system does not speak", where=str(workdir), expected="a trained avflow",
                        found=config.system.name, way_out="give the workdir of an AV-Flow job")
    decoder = decode.Decoder.from_workdir(workdir, iterations=60)
    who = drive.speakers(decoder.codecs)
    if not who:
        raise UserError("this model knows no speakers", where=str(workdir / "codecs"), expected="speakers.npz",
                        found="none", way_out="extract the features from clips that name their speakers")
    speaker = speaker or next(iter(who))
    if speaker not in who:
        raise UserError("unknown speaker", where="--speaker", expected=" or ".join(who), found=repr(speaker))
    if text:
        tokens_TC = drive.tokens_from_text(text, decoder.recipes["tokens"], identity=who[speaker])
    else:
        tokens_TC = drive.tokens_from_audio(media.read_audio(audio, mel.RECIPE["sample_rate"]), decoder.recipes["tokens"],
                                            decoder.codecs)
    params = checkpoints.load_params(workdir, system, step=step)
    conditions = drive.conditions(system.conditions_spec, tokens_TC, who[speaker], bucket=BUCKET)
    keys = jax.random.fold_in(jax.random.key(seed), zlib.crc32((text or pathlib.Path(audio).name).encode()))[None]
    streams = {n: np.asarray(v)[0, :len(tokens_TC)] for n, v in
               jax.jit(system.generate)(params, conditions, keys).items()}

    out = pathlib.Path(out or workdir / "sample")
    out.parent.mkdir(parents=True, exist_ok=True)
    waveform = decoder.waveform(streams["mel"])
    frames = decoder.frames(streams["face"], streams["head"], speaker=speaker, identity=who[speaker])
    paths = {"wav": out.with_name(out.name + ".wav"), "mp4": out.with_name(out.name + ".mp4")}
    partial = paths["wav"].with_name("." + paths["wav"].name)
    soundfile.write(partial, waveform, mel.RECIPE["sample_rate"], format="WAV")
    partial.replace(paths["wav"])
    media.write_mp4(paths["mp4"], frames, decode.FPS, audio=waveform, rate=mel.RECIPE["sample_rate"])
    return paths


def load_config(workdir: pathlib.Path) -> ConfigDict:
    """The config that a job recorded in its workdir."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError("no trained system here", where=str(workdir), expected="a folder with config.json",
                        found="nothing of the kind", way_out="train first: python -m launch.train ...")
    return ConfigDict(json.loads(path.read_text()))


def define_flags() -> None:
    """Only as a program: launch.train imports `generate` and has flags of the same names."""
    flags.DEFINE_string("workdir", None, "Folder of a finished (or running) launch.train job.")
    flags.DEFINE_string("text", "", "Sentence to speak.")
    flags.DEFINE_string("audio", "", "Speech file (any format, any rate) to be driven by, instead of text.")
    flags.DEFINE_string("out", "", "Output path without extension; default WORKDIR/sample.")
    flags.DEFINE_string("speaker", "", "Which speaker of the training data; default the one heard most.")
    flags.DEFINE_integer("seed", 0, "Seed of the noise; another seed gives another delivery of the same words.")
    flags.DEFINE_integer("steps", 0, "Euler steps; 0 = the config's.", lower_bound=0)
    flags.DEFINE_integer("step", -1, "Training step of the checkpoint; -1 = the last.")


def main(argv):
    del argv
    args = flags.FLAGS
    if not args.workdir:
        raise UserError("no workdir given", expected="--workdir=DIR, the folder of a trained avatar")
    enable_compilation_cache()
    started = time.perf_counter()
    paths = generate(args.workdir, text=args.text, audio=args.audio, out=args.out, speaker=args.speaker, seed=args.seed,
                     steps=args.steps, step=None if args.step < 0 else args.step)
    print(f"wrote {paths['mp4']} and {paths['wav']} in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    define_flags()
    launch_flags.run(main, needs_config=False)
