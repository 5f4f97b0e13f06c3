"""Lets a trained avatar speak: `avjax generate --workdir=DIR --text="..."` (or
`--audio=FILE`).

Writes OUT.mp4 (face with sound) and OUT.wav; speech alone is written as OUT.wav. Of a dialogue,
also OUT.<name>.mp4 and OUT.<name>.wav of every speaker; OUT.mp4 then shows all side by side with
the mixed sound. All files of a request come together, and OUT.json last: the request, the settings
and the names of its files, without which they are not all there. DIR may be in a bucket
(gs://...). `--config=configs/X.py` means the workdir
runs/<its name>. The inputs that a system takes are those of its `PromptBuilder`
(data_pipelines/features/<system>/prompt.py), for instance:

    AV-Flow   --text, --audio or --example=SPLIT/ID of a dataset. Text is spoken with the timing of
              WORKDIR/text, a trained avflow.text, where that is there (--language, --length_scale,
              --token_temperature; its tokens are kept as OUT.tokens.npy), else with espeak-ng's
    Talker    --task=t2av | tts | a2v | v2a, by default what fits the inputs: --text, --audio,
              --motion, --video or --example; --prefix_seconds makes t2av and tts continue the audio
              and motion; --portrait=FACE.png is drawn on where motion is LIA-X's; --task=v2a
              --video=FILM dubs the film
    TAVID     --script=dialogue.txt --portraits=a.png,b.png, of any number of turns
              (data_pipelines/features/tavid/script.py documents scripts), or --example;
              --face=unchecked takes portraits without looking for the face in them

--stream writes sound and pictures while they are computed: OUT.wav and OUT.mp4 (as OUT.part.* until
they are complete; a film in fragments, which plays while it grows), or one format, by --format or
the end of --out. --out=- is standard output, and a named pipe may be given too:

    avjax generate ... --stream --out=- --format=f32le | ffplay -f f32le -ar 22050 -ch_layout mono -
    avjax generate ... --stream --out=- --format=mp4 | ffplay -

Look-ahead, latency of the first packet, real-time factor and stalls of a player in real time are
printed on standard error and kept in OUT.json (of a pipe in WORKDIR/stream.json).

--requests=FILE generates many: a JSON
object a line, {"id": "a", "text": "..."}, written to OUT/a.wav etc.; the same command continues
where it was interrupted. One that fails is told, OUT/ID.json says why, the others are made, and the
exit code is then 2. All devices share the requests, and all hosts that the job was started on
(or --processes=N, --shard=I/N). With --stream, --batch_size of them (4) are written at once while
they are made, on one device, and OUT/ID.json says how each went.

Talker makes text that is longer than its context in pieces, cut at sentences, each going on from
the sound and motion before it (docs/talker.md): --text_file, --piece_seconds, --context_seconds.
"""

import contextlib
import os
import pathlib
import sys
import time

from absl import flags

from avjax.checkpoint import remote
from avjax.errors import UserError
from avjax.hardware.accelerator import enable_compilation_cache
from avjax.storage import lock, paths
from data_pipelines import prompting
from data_pipelines.live import writers
from launch import flags as launch_flags
from launch import workers
from launch.jobs import generate as jobs
from launch.jobs import targets
from launch.jobs.requests import files as requests_files
from launch.jobs.requests import run as requests_run

DEFINE = {str: flags.DEFINE_string, float: flags.DEFINE_float, int: flags.DEFINE_integer,
          bool: flags.DEFINE_bool}
STREAM = ("chunk", "vocoder_block", "vocoder_ahead")
SETTINGS = ("seed", "steps", "guidance", "temperature", "vocoder", "geometry", "length_scale",
            "token_temperature")


def define_flags() -> None:
    """The command's own, and the inputs of every system."""
    workers.define_flags()
    flags.DEFINE_string("workdir", None, "Folder of a finished (or running) avjax train job.")
    flags.DEFINE_string("config", "", "Instead: the experiment, whose workdir is runs/<its name> "
                        "here.")
    for name, (field, systems) in prompting.inputs().items():
        DEFINE[field.kind](name, field.kind(), f"{field.help} [{', '.join(systems)}]")
    flags.DEFINE_string("requests", "", "File with a request a line, as JSON; see above.")
    flags.DEFINE_integer("batch_size", 0, "Of --requests: so many at a time; 0 = one a device; "
                         "with --stream 4.",
                         lower_bound=0)
    flags.DEFINE_string("out", "", "Output path without extension, default WORKDIR/sample; of "
                                   "--requests a folder, default WORKDIR/samples.")
    flags.DEFINE_integer("seed", 0, "Seed of the noise; another seed gives another delivery of the "
                         "same words.")
    flags.DEFINE_integer("steps", 0, "Solver steps; 0 = the config's.", lower_bound=0)
    flags.DEFINE_float("guidance", None, "Classifier-free guidance; default the config's.")
    flags.DEFINE_float("temperature", None, "Of the start noise; default the config's.",
                       lower_bound=0.0)
    flags.DEFINE_float("length_scale", None, "Of all durations of text to tokens: 1.2 speaks a "
                       "fifth slower; default its config's.", lower_bound=0.05)
    flags.DEFINE_float("token_temperature", None, "Of the start noise of WORKDIR/text; default its "
                       "config's.", lower_bound=0.0)
    flags.DEFINE_string("vocoder", "", "What makes the sound: a BigVGAN of the model's mel "
                        "(published file, or workdir of a training), or griffin-lim; default: "
                        "WORKDIR/vocoder, else the one that the features keep, else Griffin-Lim.")
    flags.DEFINE_string("geometry", "", "A Codec Avatar's decoder (dec_params.pt, with the mean "
                        "face beside it): writes its vertices as OUT.vertices.npy.")
    flags.DEFINE_integer("step", -1, "Training step of the checkpoint; -1 = the last.")
    flags.DEFINE_bool("stream", False, "Write while it is computed, where the system can; see "
                                       "above.")
    flags.DEFINE_string("format", "", "Of --stream: " + " | ".join(writers.FORMATS)
                        + "; default by the end of --out, else wav and mp4.")
    for name in STREAM:
        flags.DEFINE_integer(name, -1, "Of --stream, instead of config.stream's; see avjax config.")
    flags.DEFINE_bool("save_latents", False, "Write the streams as OUT.npz too.")


def workdir_of(config: str) -> str:
    """The default folder that an experiment is trained in."""
    if not config:
        raise UserError("no workdir given", expected="--workdir=DIR, the folder of a trained "
                                                     "avatar, or --config=configs/X.py")
    workdir = str(pathlib.Path("runs") / launch_flags.load_config(config).name)
    jobs.say([f"workdir: {workdir}, of {config}"])
    return workdir


def main(argv):
    del argv
    args = flags.FLAGS
    workdir = args.workdir or workdir_of(args.config)
    launch_flags.check_local("--out", args.out)
    enable_compilation_cache()
    step = None if args.step < 0 else args.step
    settings = {name: getattr(args, name) for name in SETTINGS} | {"step": step}
    inputs = {name: getattr(args, name) for name in prompting.inputs()}
    name = "samples" if args.requests else "sample"
    out = paths.folder(args.out or paths.folder(workdir) / name)
    started = time.perf_counter()
    for option, absent in {"format": "", **dict.fromkeys(STREAM, -1)}.items():
        if getattr(args, option) != absent and not args.stream:
            raise UserError(f"--{option} without --stream", where=f"--{option}",
                            hint="add --stream")
    if args.requests:
        requests(args, workdir, out, settings, inputs)
        return
    if args.stream:
        stream(args, workdir, out, settings | inputs, step)
        return
    with lock.hold(lock.beside(out), "the output", out), remote.at_hand(workdir, step) as here:
        files = jobs.generate(here, out=args.out, save_latents=args.save_latents, **settings,
                              **inputs)
        print(f"wrote {' and '.join(str(path) for path in files.values())} in "
              f"{time.perf_counter() - started:.1f} s")


def stream(args, workdir: str, out, request: dict, step) -> None:
    """--stream. Several may go down one pipe, but not into one file."""
    if args.save_latents:
        raise UserError("--save_latents beside --stream", where="--save_latents",
                        hint="leave one of them out")
    if request.pop("geometry"):
        raise UserError("--geometry beside --stream", where="--geometry",
                        hint="vertices are written when all is made: leave one of them out")
    wanted = targets.targets(args.out, args.format) if args.out else []
    stdout = targets.free_stdout() if any(target.path is None for target in wanted) else None
    with contextlib.ExitStack() as stack:
        if not wanted or wanted[0].grows:
            stack.enter_context(lock.hold(lock.beside(out), "the output", out))
        here = stack.enter_context(remote.at_hand(workdir, step))
        wanted = wanted or targets.targets(str(here / out.name), args.format)
        given = {name: getattr(args, name) for name in STREAM}
        report = jobs.stream(here, wanted, stdout=stdout, **given, **request)
        print(f"wrote {' and '.join(report['files'].values())} in {report['wall_s']:.1f} s",
              file=sys.stderr if stdout else sys.stdout)


def requests(args, workdir: str, out, settings: dict, inputs: dict) -> None:
    """--requests: this process' share of them."""
    given = [name for name, value in inputs.items() if value]
    if given:
        raise UserError(f"--{given[0]} beside --requests", where=f"--{given[0]}",
                        hint="put it into the file, or leave it out")
    streamed = None
    if args.stream:
        if args.out and targets.goes_on(args.out):
            raise UserError("many requests down one pipe", where=f"--out={args.out}",
                            expected="a folder, or one request: --text=... without --requests")
        for name in ("save_latents", "geometry"):
            if getattr(args, name):
                raise UserError(f"--{name} beside --stream", where=f"--{name}",
                                hint="leave one of them out")
        streamed = {"format": args.format} | {name: getattr(args, name) for name in STREAM}

    def tell(folder: pathlib.Path) -> None:
        requests_files.check_all_made(args.requests, folder)
        print(f"written: {folder}")

    workers.spread("launch.generate", str(out), tell)
    share = workers.share(args.shard)
    file = lock.beside(out.with_name(f"{out.name}-{share[0]}-of-{share[1]}"))
    with lock.hold(file, "the outputs", out), remote.at_hand(workdir, settings["step"]) as here:
        try:
            made, skipped = requests_run.run(
                here, args.requests, args.out or here / "samples", share=share,
                batch_size=args.batch_size, save_latents=args.save_latents, streamed=streamed,
                **settings)
        except requests_files.NotMade as error:
            if workers.SPREAD not in os.environ:
                raise
            # the other processes would be ended with this one; `tell` looks at what is missing
            print(f"error: {error}", file=sys.stderr)
            return
    print(f"{made} generated, {skipped} were there already: {out}")


if __name__ == "__main__":
    define_flags()
    launch_flags.run(main, needs_config=False)
