"""Train: python -m launch.train --config=configs/quickstart.py --workdir=runs/quickstart [--config.key=value ...]

Runs the config's stages (data, sub-models), trains with resume, then evaluates on the held-out splits and generates a
sample when the config asks for them. The same command goes on with a workdir it was interrupted in. Exit codes: 0 done,
2 something the user can mend, 75 stopped by SIGTERM or SIGINT with everything saved.
"""

import sys
import time
from pathlib import Path

from absl import flags

from avjax.errors import UserError
from avjax.training.hardware import enable_compilation_cache
from launch import flags as launch_flags

CONFIG = launch_flags.define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run: data, checkpoints, metrics, results.")


def main(argv) -> None:
    del argv
    if not WORKDIR.value:
        raise UserError("no workdir given", expected="--workdir=DIR, the folder of this run")
    began = time.perf_counter()
    config, workdir = CONFIG.value, Path(WORKDIR.value).absolute()
    if workdir.exists() and not workdir.is_dir():
        raise UserError("the workdir is not a folder", where=str(workdir), way_out="use another --workdir")
    enable_compilation_cache()
    from launch.stages import run_stages
    from launch.training import fill_config, run_training

    seconds = run_stages(config.stages, workdir)
    check_samples(fill_config(config, workdir))
    start = time.perf_counter()
    run_training(config, workdir)
    seconds["train"] = time.perf_counter() - start
    if config.evaluate.benchmark:
        start = time.perf_counter()
        launch_flags.launcher("launch.evaluate").evaluate(fill_config(config, workdir), workdir)
        seconds["evaluate"] = time.perf_counter() - start
    start = time.perf_counter()
    if samples(config.sample, workdir):
        seconds["sample"] = time.perf_counter() - start
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    print(f"done in {time.perf_counter() - began:.1f} s ({parts}): {workdir}", file=sys.stderr, flush=True)


def samples(wanted, workdir: Path) -> int:
    """Generates what `config.sample` asks for; returns how many."""
    jobs = sample_jobs(wanted)
    for name, wish in jobs:
        launch_flags.launcher("launch.generate").generate(workdir, out=workdir / name, **wish)
    return len(jobs)


def check_samples(config) -> None:
    """UserError for a sample that could not be generated once training is done: unknown task or example, nothing to drive
    it, text over the context, ..."""
    jobs = sample_jobs(config.sample)
    if not jobs or not config.data.dir:
        return
    from avjax.systems import api
    from data_pipelines import decode, drive, store

    system, decoder = api.build(config.system), decode.Decoder.from_dataset(store.open_dataset(config.data.dir))
    for name, wish in jobs:
        try:
            launch_flags.launcher("launch.generate").planned(config, drive.Wish(**wish), system, decoder)
        except UserError as error:
            raise UserError(f"cannot generate the {name} that the config asks for: {error}", where="config.sample",
                            way_out="change config.sample, or leave it empty") from error


def sample_jobs(wanted) -> list[tuple[str, dict]]:
    """(name of the files, wish) of what `config.sample` asks for.

    `text` or `audio` give WORKDIR/sample; each of `tasks` gives WORKDIR/sample_TASK from `example` ("SPLIT/ID" or
    "SPLIT/NUMBER" of the dataset), or from the text or audio where there is no example.
    """
    spoken = {name: wanted[name] for name in ("text", "audio") if wanted[name]}
    example = {"example": wanted["example"]} if wanted.get("example") else {}
    tasks = tuple(wanted.get("tasks", ()))
    jobs = [("sample", spoken)] if spoken and (example or not tasks) else []
    jobs += [(f"sample_{task}", {"task": task} | (example or spoken)) for task in tasks]
    return jobs + ([("sample", example)] if example and not tasks and not spoken else [])


if __name__ == "__main__":
    launch_flags.run(main)
