"""Train: python -m launch.train --config=configs/quickstart.py --workdir=runs/quickstart
[--config.key=value ...]

Runs the config's stages (data, sub-models), trains with resume, then evaluates on the held-out
splits and generates a sample when the config asks for them. The same command goes on with a workdir
it was interrupted in; while it runs, a second one is refused. What may stand after --config. is
said in launch/overrides.py. Exit codes: 0 done, 2 something the user can mend, 75 to be started
again (SIGTERM, SIGINT, a lost host, a hang).

Started once a host, it is one job: all hosts train, and host 0 alone prepares, writes, evaluates
and samples. How hosts find
each other: avjax/hosts/distributed.py; the workdir has to lie on storage that all of them see.
"""

import sys
import time
from pathlib import Path

from absl import flags

from avjax.errors import UserError
from avjax.hardware.accelerator import enable_compilation_cache
from avjax.hosts import distributed
from avjax.storage import lock, paths
from launch import flags as launch_flags
from launch import hosts

CONFIG = launch_flags.define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run: data, checkpoints, metrics, "
                                               "results.")
hosts.define_flags()
PATIENCE = 3600.0  # seconds to wait for whoever evaluates or generates here meanwhile


def main(argv) -> None:
    del argv
    if not WORKDIR.value:
        raise UserError("no workdir given", expected="--workdir=DIR, the folder of this run")
    config, workdir = CONFIG.value, paths.folder(WORKDIR.value)
    if workdir.exists() and not workdir.is_dir():
        raise UserError("the workdir is not a folder", where=str(workdir),
                        hint="use another --workdir")
    from avjax.hosts.ownership import sole_writer

    with hosts.session(config.train.heartbeat_timeout), sole_writer(workdir):
        run(config, workdir)


def run(config, workdir: Path) -> None:
    """Stages, training, evaluation, samples: what is left of them. Raises UserError, Restart."""
    began = time.perf_counter()
    enable_compilation_cache()
    from launch.jobs.stages import run_stages, sole_makers
    from launch.training import agree, fill_config, make_mesh, run_training

    agree(config, workdir)
    make_mesh(config.mesh, dcn=config.dcn)  # devices and mesh, before anything that takes long
    distributed.on_main("checks of the config", lambda: check_config(config, workdir))
    with sole_makers(config.stages, workdir):
        seconds = run_stages(config.stages, workdir)
    distributed.on_main("checks of what follows",
                        lambda: check_what_follows(fill_config(config, workdir), workdir))
    start = time.perf_counter()
    run_training(config, workdir)
    seconds["train"] = time.perf_counter() - start
    main_host = distributed.is_main()
    distributed.shutdown()  # the rest is for one: the others are done
    if not main_host:
        return
    if config.evaluate.benchmark or sample_jobs(config.sample):
        from avjax.checkpoint import remote

        with remote.at_hand(workdir) as here:
            seconds |= finish(fill_config(config, workdir), here)
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    print(f"done in {time.perf_counter() - began:.1f} s ({parts}): {workdir}", file=sys.stderr,
          flush=True)


def finish(config, workdir: Path) -> dict[str, float]:
    """Evaluation and samples of a trained model; seconds of each."""
    seconds, start = {}, time.perf_counter()
    if config.evaluate.benchmark:
        with lock.hold(workdir / lock.RESULTS, "the results in", workdir, wait=PATIENCE):
            launch_flags.launcher("launch.evaluate").evaluate(config, workdir)
        seconds["evaluate"] = time.perf_counter() - start
    start = time.perf_counter()
    if samples(config.sample, workdir):
        seconds["sample"] = time.perf_counter() - start
    return seconds


def samples(wanted, workdir: Path) -> int:
    """Generates what `config.sample` asks for; returns how many."""
    jobs = sample_jobs(wanted)
    for name, wish in jobs:
        with lock.hold(lock.beside(workdir / name), "the sample", workdir / name, wait=PATIENCE):
            launch_flags.launcher("launch.generate").generate(workdir, out=workdir / name, **wish)
    return len(jobs)


def check_config(config, workdir: Path) -> None:
    """UserError for whatever can be known to be wrong before the first stage."""
    from launch import preflight
    from launch.training import fill_config

    made = preflight.check_stages(config.stages, workdir)
    preflight.check(fill_config(config, workdir), workdir, made)


def check_what_follows(config, workdir: Path) -> None:
    """UserError for an evaluation or a sample that could not be made once training is done."""
    if config.evaluate.benchmark and config.data.dir:
        evaluate = launch_flags.launcher("launch.evaluate")
        benchmark, dataset = evaluate.open_benchmark(config, workdir)
        evaluate.runner.check(evaluate.api.build(config.system), dataset)
    check_samples(config)


def check_samples(config) -> None:
    """UserError for a sample that could not be generated once training is done: unknown task or
    example, nothing to drive it, text over the context, ..."""
    jobs = sample_jobs(config.sample)
    if not jobs or not config.data.dir:
        return
    from avjax.systems import api
    from data_pipelines import decode, prompting
    from data_pipelines.store import dataset as store

    system, decoder = api.build(config.system), decode.Decoder.from_dataset(
        store.open_dataset(config.data.dir))
    for name, wish in jobs:
        try:
            launch_flags.launcher("launch.generate").planned(config, prompting.Wish(**wish), system,
                                                             decoder)
        except UserError as error:
            raise UserError(f"cannot generate the {name} that the config asks for: {error}",
                            where="config.sample",
                            hint="change config.sample, or leave it empty") from error


def sample_jobs(wanted) -> list[tuple[str, dict]]:
    """(name of the files, wish) of what `config.sample` asks for.

    `text` or `audio` give WORKDIR/sample; each of `tasks` gives WORKDIR/sample_TASK from `example`
    ("SPLIT/ID" or "SPLIT/NUMBER" of the dataset), or from the text or audio where there is no
    example.
    """
    spoken = {name: wanted[name] for name in ("text", "audio") if wanted[name]}
    example = {"example": wanted["example"]} if wanted.get("example") else {}
    tasks = tuple(wanted.get("tasks", ()))
    jobs = [("sample", spoken)] if spoken and (example or not tasks) else []
    jobs += [(f"sample_{task}", {"task": task} | (example or spoken)) for task in tasks]
    return jobs + ([("sample", example)] if example and not tasks and not spoken else [])


if __name__ == "__main__":
    launch_flags.run(main)
