"""Lets a trained avatar speak: `python -m launch.generate --workdir=DIR --text="..."` (or
`--audio=FILE`).

Writes OUT.mp4 (face with sound) and OUT.wav; speech alone is written as OUT.wav. Of a dialogue,
also OUT.<name>.mp4 and OUT.<name>.wav of every party; OUT.mp4 then shows all side by side with the
mixed sound. DIR may be in a bucket (gs://...). `--config=configs/X.py` stands for the workdir
runs/<its name>. What a system can be given, and for which tasks, is said in
data_pipelines/drive/<system>.py:

    AV-Flow   --text (timed phonemes by espeak-ng) or --audio
    Talker    --task=t2av | tts | a2v | v2a, by default what fits what is given: --text, --audio, --motion, or
              --example=SPLIT/ID of a dataset; --prefix_seconds makes t2av and tts go on from the
              audio and motion
    TAVID     --script=dialogue.txt --portraits=a.png,b.png, of any number of turns (data_pipelines/features/tavid/script.py says how scripts
              are written), or --example; --face=unchecked takes portraits without looking for the
              face in them
"""

import dataclasses
import json
import pathlib
import sys
import time
import zlib
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from avjax.checkpoint import checkpoints, remote
from avjax.errors import UserError
from avjax.hardware.accelerator import enable_compilation_cache
from avjax.storage import lock
from avjax.storage import paths as training_paths
from avjax.systems import api
from avjax.systems.api import real_streams
from data_pipelines import decode, prompting
from data_pipelines.media import write_media
from launch import flags as launch_flags
from launch import parties


def generate(workdir, *, out=None, seed: int = 0, step: int | None = None, steps: int = 0,
             guidance: float | None = None, temperature: float | None = None, stream: bool = False,
             save_latents: bool = False,
             **wish) -> dict[str, pathlib.Path]:
    """Speaks one sentence, or a dialogue. Returns the files written: {"wav", "mp4", "npz"}, those
    that there are; of a dialogue also {"<name>.wav", "<name>.mp4"} of every party.

    Args:
      workdir: folder of a training job.
      out: path without extension; default WORKDIR/sample.
      seed: of the noise.
      step: of the checkpoint; None = the last.
      steps, guidance, temperature: instead of the config's, where given.
      stream: print progress while patches come, where the system can stream.
      save_latents: write the streams too, as OUT.npz.
      wish: fields of `data_pipelines.prompting.Wish`.

    Raises UserError for unusable input, and for folders that hold nothing that speaks.
    """
    workdir, wish = pathlib.Path(workdir), prompting.Wish(**wish)
    config = load_config(workdir)
    driver = prompting.driver(config.system.name, str(workdir))
    change(config.system, driver.SETTINGS, {"steps": steps or None, "guidance": guidance,
                                            "temperature": temperature})
    system = api.build(config.system)
    decoder = decode.Decoder.from_workdir(workdir, iterations=60)
    plan = planned(config, wish, system, decoder)
    tell(plan.remarks)
    params = checkpoints.load_params(workdir, system, step=step)
    keys = jax.random.fold_in(jax.random.key(seed), zlib.crc32(plan.noise.encode()))[None]
    if stream:
        made = streamed(driver, system, params, plan, keys)
    elif plan.pieces:
        made = in_pieces(driver, system, params, plan, keys)
    else:
        made = jax.jit(system.generate, static_argnames="task")(params, plan.conditions, keys,
                                                                task=plan.task)
    made = jax.device_get(made)
    tell(driver.remarks(plan, made, system))
    # of long speech they are as large as what was made
    plan = dataclasses.replace(plan, conditions={}, pieces=())
    return write(pathlib.Path(out or workdir / "sample"),
                 real_streams(system, made, 0, plan.frames), decoder, plan,
                 save_latents)


def planned(config, wish: prompting.Wish, system, decoder) -> prompting.Plan:
    """What a wish means to a system; reads what it names and generates nothing. UserError for
    whatever is unusable."""
    driver = prompting.driver(config.system.name)
    if wish.example and not wish.data:
        wish = dataclasses.replace(wish, data=config.data.dir)
    prompting.check_wish(wish, driver.TAKES, config.system.name)
    return driver.plan(wish, system, decoder)


def change(settings, names: dict[str, str | tuple[str, ...]], values: dict) -> None:
    """Sets what was given of the sampler's settings. UserError for one that the system does not
    have."""
    for flag, value in values.items():
        if value is not None:
            if flag not in names:
                raise UserError(f"{settings.name} has no {flag}", where=f"--{flag}",
                                hint="leave it out")
            fields = [names[flag]] if isinstance(names[flag], str) else names[flag]
            settings.update_from_flattened_dict(dict.fromkeys(fields, value))


def streamed(driver, system, params, plan: prompting.Plan, keys):
    """What `system.generate` returns, with a line of progress as patches come."""
    if not hasattr(driver, "stream"):
        raise UserError(f"{system.config.name} is not streamed", where="--stream",
                        hint="leave it out")
    chunks, first = driver.stream(system, params, plan, keys), 0.0
    started = time.perf_counter()
    for made, seconds in chunks:  # noqa: B007 (the last one counts)
        now = time.perf_counter() - started
        if seconds:
            first = first or now
            print(f"\rfirst patch after {first:.3f} s; {seconds:.2f} s made in {now:.2f} s, "
                  "real-time factor "
                  f"{now / seconds:.3f}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return made


def in_pieces(driver, system, params, plan: prompting.Plan, keys):
    """What the driver's pieces are together, with a bar that moves by the seconds made."""
    with tqdm(total=plan.seconds, unit="s", file=sys.stderr,
              desc=f"{plan.task}, {len(plan.pieces)} pieces",
              bar_format="{desc} {bar} {n:.1f} of about {total:.0f} s made in {elapsed}") as bar:
        for made, seconds in driver.pieces(system, params, plan, keys):  # noqa: B007
            bar.total = max(bar.total, seconds)
            bar.update(seconds - bar.n)
        bar.total = seconds
        bar.refresh()
    return made


def tell(lines) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def write(out: pathlib.Path, streams: dict[str, np.ndarray], decoder, plan: prompting.Plan,
          latents: bool) -> dict:
    """Sound, and pictures of the same duration where there is motion that can be drawn. Each file
    is whole or absent."""
    out.parent.mkdir(parents=True, exist_ok=True)
    paths = {}
    if latents:
        paths["npz"] = aside(out, ".npz", lambda path: save(path, streams))
    if plan.parties:
        return paths | parties.write(out, decoder.parties(streams), plan.parties, decoder)
    if not decoder.has_audio(streams):
        raise UserError("nothing was generated", where=plan.task, expected="at least one frame",
                        found="0", hint="train longer, or raise --config.system.min_patches")
    sound = decoder.waveform(streams)
    paths["wav"] = aside(out, ".wav",
                         lambda path: write_media.write_wav(path, sound, decoder.sample_rate))
    if not decoder.has_motion(streams):
        return paths
    if not decoder.draws:
        tell(["no picture: nothing here can draw this "
              f"motion{'' if latents else '; --save_latents keeps it'}"])
        return paths
    _, pictures = decoder.pictures(streams, speaker=plan.speaker, identity=plan.identity)
    count = max(1, round(len(sound) / decoder.sample_rate * decode.FPS))
    paths["mp4"] = out.with_name(out.name + ".mp4")
    write_media.write_mp4(paths["mp4"], counted(held(pictures, count), count), decode.FPS,
                          audio=sound, rate=decoder.sample_rate)
    return paths


def aside(out: pathlib.Path, suffix: str, writer) -> pathlib.Path:
    """Writes under a hidden name, then renames; a failure leaves nothing behind."""
    path = out.with_name(out.name + suffix)
    partial = path.with_name("." + path.name)
    try:
        writer(partial)
        return partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def save(path: pathlib.Path, streams) -> None:
    with open(path, "wb") as file:
        np.savez(file, **streams)


def counted(pictures: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """The pictures, with a bar where they take long."""
    return tqdm(pictures, total=count, unit="picture", desc="drawing", file=sys.stderr, delay=5,
                mininterval=1)


def held(pictures: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """`count` pictures: as long as the sound, the last one held where motion ends earlier."""
    last = None
    for _ in range(count):
        last = next(pictures, last)
        yield last


def load_config(workdir: pathlib.Path) -> ConfigDict:
    """The config that a job recorded in its workdir."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError("no trained system here", where=str(workdir),
                        expected="a folder with config.json", found="nothing of the kind",
                        hint=f"train first: python -m launch.train --config=configs/... "
                        f"--workdir={workdir}")
    config = ConfigDict(json.loads(path.read_text()))
    config.data.dir = launch_flags.fill(config.data.dir, workdir)
    # of an older job, whose workdir was moved since
    if config.data.dir and not pathlib.Path(config.data.dir).exists():
        parts = pathlib.PurePath(config.data.dir).parts[1:]
        inside = [workdir.joinpath(*parts[k:]) for k in range(len(parts))]
        config.data.dir = str(next((p for p in inside if p.is_dir()), config.data.dir))
    return config


def define_flags() -> None:
    """Only as a program: launch.train imports `generate` and has flags of the same names."""
    flags.DEFINE_string("workdir", None, "Folder of a finished (or running) launch.train job.")
    flags.DEFINE_string("config", "", "Instead: the experiment, whose workdir is runs/<its name> "
                        "here.")
    flags.DEFINE_string("task", "", "What to make, where a system can make several things; "
                        "default: what fits what is given.")
    flags.DEFINE_string("text", "", "Sentence to speak.")
    flags.DEFINE_string("audio", "", "Speech file (any format, any rate): drives, or is gone on "
                        "from, or gives the voice.")
    flags.DEFINE_string("motion", "",
                        "Motion file (.npz, .npy or .pt): drives, or is gone on from.")
    flags.DEFINE_string("example", "", "SPLIT/ID or SPLIT/NUMBER of a dataset: its text, audio, "
                                       "motion and speaker.")
    flags.DEFINE_string("script", "", "Dialogue to speak: a file with a line a turn, \"Anna: "
                        "Hello.\"")
    flags.DEFINE_string("portraits", "", "A picture of each party, with commas between them.")
    flags.DEFINE_string("speakers", "", "Names of the script in the portraits' order; default the "
                                        "order of first speaking.")
    flags.DEFINE_string("face", "", "\"unchecked\" takes portraits as they are, whether a face is "
                        "found in them or not.")
    flags.DEFINE_string("data", "", "Feature dataset of --example; default the one that the model "
                        "was trained on.")
    flags.DEFINE_float("prefix_seconds", 0.0, "Go on from so much of the audio (and motion).",
                       lower_bound=0.0)
    flags.DEFINE_float("max_seconds", 0.0, "Bound of what is made; 0 = all that the model's "
                                           "context holds.", lower_bound=0.0)
    flags.DEFINE_string("out", "", "Output path without extension; default WORKDIR/sample.")
    flags.DEFINE_string("speaker", "", "Which speaker of the training data; default whoever was "
                                       "given, else the one heard most.")
    flags.DEFINE_integer("seed", 0, "Seed of the noise; another seed gives another delivery of the "
                         "same words.")
    flags.DEFINE_integer("steps", 0, "Solver steps; 0 = the config's.", lower_bound=0)
    flags.DEFINE_float("guidance", None, "Classifier-free guidance; default the config's.")
    flags.DEFINE_float("temperature", None, "Of the start noise; default the config's.",
                       lower_bound=0.0)
    flags.DEFINE_integer("step", -1, "Training step of the checkpoint; -1 = the last.")
    flags.DEFINE_bool("stream", False, "Generate patch by patch and print how fast, where the "
                                       "system can.")
    flags.DEFINE_bool("save_latents", False, "Write the streams as OUT.npz too.")


def workdir_of(config: str) -> str:
    """The folder that an experiment is trained in unless told otherwise."""
    if not config:
        raise UserError("no workdir given", expected="--workdir=DIR, the folder of a trained "
                                                     "avatar, or --config=configs/X.py")
    workdir = str(pathlib.Path("runs") / launch_flags.load_config(config).name)
    tell([f"workdir: {workdir}, of {config}"])
    return workdir


def main(argv):
    del argv
    args = flags.FLAGS
    workdir = args.workdir or workdir_of(args.config)
    launch_flags.check_local("--out", args.out)
    enable_compilation_cache()
    started = time.perf_counter()
    wish = {field.name: getattr(args, field.name) for field in dataclasses.fields(prompting.Wish)}
    step = None if args.step < 0 else args.step
    out = training_paths.folder(args.out or training_paths.folder(workdir) / "sample")
    with lock.hold(lock.beside(out), "the output", out), remote.at_hand(workdir, step) as here:
        paths = generate(here, out=args.out, seed=args.seed, step=step, steps=args.steps,
                         guidance=args.guidance, temperature=args.temperature, stream=args.stream,
                         save_latents=args.save_latents, **wish)
        print(f"wrote {' and '.join(str(path) for path in paths.values())} in "
              f"{time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    define_flags()
    launch_flags.run(main, needs_config=False)
