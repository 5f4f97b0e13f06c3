"""Trains what a config describes, from data to results, and resumes:
avjax train --config=configs/quickstart.py --workdir=runs/quickstart
[--config.key=value ...]

Runs the config's stages (data, sub-models), trains with resume, then evaluates on the held-out
splits and generates a sample when the config asks for them. The same command goes on with a workdir
it was interrupted in; while it runs, a second one is refused. What may stand after --config. is
said in launch/overrides.py. Exit codes: 0 done, 2 something the user can mend, 75 to be started
again (SIGTERM, SIGINT, a lost host, a hang).

Started once a host, it is one job: all hosts train and score a share of the evaluation's examples
each; host 0 alone prepares, writes the results and samples. How hosts find each other:
avjax/hosts/distributed.py; the workdir has to lie on storage that all of them see.
"""

import sys
import time
from pathlib import Path

from absl import flags

from avjax.errors import UserError
from avjax.hardware.accelerator import enable_compilation_cache
from avjax.hosts import distributed
from avjax.storage import lock, paths
from launch import data, hosts
from launch import flags as launch_flags

PATIENCE = 3600.0  # seconds to wait for whoever evaluates or generates here meanwhile


def define_flags() -> None:
    """--config, --workdir, and which host this is."""
    launch_flags.define_config()
    flags.DEFINE_string("workdir", None, "Folder of this run: data, checkpoints, metrics, results.")
    hosts.define_flags()


def main(argv) -> None:
    del argv
    args = flags.FLAGS
    if not args.workdir:
        raise UserError("no workdir given", expected="--workdir=DIR, the folder of this run")
    config, workdir = args.config, paths.folder(args.workdir)
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
    from launch.jobs.stages import run_stages, seeded, sole_makers
    from launch.training import agree, fill_config, make_mesh, run_training

    agree(config, workdir)
    make_mesh(config.mesh, dcn=config.dcn)  # devices and mesh, before anything that takes long
    distributed.on_main("checks of the config", lambda: check_config(config, workdir))
    stages = seeded(config.stages, config.seed)
    with sole_makers(stages, workdir):
        seconds = run_stages(stages, workdir)
    distributed.on_main("checks of what follows",
                        lambda: check_what_follows(fill_config(config, workdir), workdir))
    start = time.perf_counter()
    run_training(config, workdir)
    seconds["train"] = time.perf_counter() - start
    if config.evaluate.benchmark and distributed.process_count() > 1:
        start = time.perf_counter()
        score_share(config, workdir)
        seconds["score"] = time.perf_counter() - start
    main_host = distributed.is_main()
    distributed.shutdown()  # the rest is for one: the others are done
    if not main_host:
        return
    from launch.jobs import samples

    if config.evaluate.benchmark or samples.requests_of(config.sample):
        from avjax.checkpoint import remote

        with remote.at_hand(workdir) as here:
            seconds |= finish(fill_config(config, workdir), here)
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    print(f"done in {time.perf_counter() - began:.1f} s ({parts}): {workdir}", file=sys.stderr,
          flush=True)


def score_share(config, workdir: Path) -> None:
    """Scores this host's share of the examples, with its own devices, and waits for all hosts.
    `finish` then finds all rows and writes the results."""
    from avjax.checkpoint import remote
    from launch.jobs import evaluate
    from launch.training import fill_config

    share = distributed.process_index(), distributed.process_count()
    with remote.at_hand(workdir) as here:
        evaluate.evaluate(fill_config(config, workdir), here, share=share, merge=False,
                          progress=distributed.is_main())
    distributed.barrier("all shares of the evaluation", distributed.STAGE_SECONDS)


def finish(config, workdir: Path) -> dict[str, float]:
    """Evaluation and samples of a trained model; seconds of each."""
    from launch.jobs import evaluate, samples

    seconds, start = {}, time.perf_counter()
    if config.evaluate.benchmark:
        with lock.hold(workdir / lock.RESULTS, "the results in", workdir, wait=PATIENCE):
            evaluate.evaluate(config, workdir)
        seconds["evaluate"] = time.perf_counter() - start
    start = time.perf_counter()
    if samples.generate(config.sample, workdir, patience=PATIENCE):
        seconds["sample"] = time.perf_counter() - start
    return seconds


def check_config(config, workdir: Path) -> None:
    """UserError for whatever can be known to be wrong before the first stage."""
    from launch import preflight
    from launch.jobs.stages import seeded
    from launch.training import fill_config

    made = preflight.check_stages(seeded(config.stages, config.seed), workdir)
    preflight.check(fill_config(config, workdir), workdir, made)


def check_what_follows(config, workdir: Path) -> None:
    """UserError for an evaluation or a sample that could not be made once training is done."""
    from launch.jobs import evaluate, samples

    if config.evaluate.benchmark and data.main_folder(config.data):
        evaluate.check(config, workdir)
    samples.check(config)


if __name__ == "__main__":
    define_flags()
    launch_flags.run(main)
