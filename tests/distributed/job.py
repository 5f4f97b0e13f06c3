"""One process of a job of the tests: a toy System on real ArrayRecord data, through the real
launcher's body.

python job.py WORKDIR DATA [key=value of the config ...] [@hook=value ...]

Hooks slow a phase down or break it, so that a test can act in the middle of it:
  @data=SECONDS        before every batch
  @hang=STEP:HOST      batch STEP never comes on HOST (* = any)
  @compile=SECONDS     in C code, while tracing
  @evaluation=SECONDS  before every held-out batch
  @save=SECONDS        in every save
  @absent=NAME:HOST    HOST never comes to barrier NAME
  @raise=STEP:HOST     a UserError at batch STEP of HOST
  @full=STEP:HOST      from batch STEP and the first checkpoint on, HOST writes at most 32 kB a file
  @width=N             of the hidden layer
  @generate=1          an evaluator that generates
  @records=SECONDS     host 0 takes to put its records away at the end
  @scored=1            a System with a benchmark, see scored.py
  @kill=SIGNAL:POINT:N sends itself a signal when it comes to one of POINTS for the N-th time
"""

import ast
import hashlib
import itertools
import os
import resource
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from orbax.checkpoint._src.checkpointers import async_checkpointer  # noqa: E402

from avjax import systems  # noqa: E402
from avjax.checkpoint import checkpoints  # noqa: E402
from avjax.errors import UserError  # noqa: E402
from avjax.hosts import distributed  # noqa: E402
from avjax.inference import generator  # noqa: E402
from avjax.storage.failures import exit_cleanly  # noqa: E402
from avjax.telemetry import goodput  # noqa: E402
from avjax.telemetry.metrics_writer import MetricsWriter  # noqa: E402
from avjax.training import evaluators  # noqa: E402
from data_pipelines.loading import loader  # noqa: E402
from launch import hosts, train, training  # noqa: E402
from tests.training import toy  # noqa: E402

systems.__path__.append(str(Path(__file__).parent / "systems"))  # has "toy"


class Generate:
    """Mean square of what is generated for the first held-out examples."""

    name, every = "generated", 6

    def __init__(self, system, dataset):
        self.made = lambda params: generator.generate_split(
            generator.Generator(system, batch_size=3, seed=1,
                                everywhere=distributed.process_count() > 1), params, dataset,
            "valid", range(5), "draw")

    def run(self, params, step):
        return {"size":
                float(np.mean([np.mean(streams["y"] ** 2) for _, streams in self.made(params)]))}


class System(toy.ToySystem):
    rows, tasks, makes, name = None, ("draw",), {"draw": ("y",)}, "toy"

    def __init__(self, config=None, *, compiling: float = 0.0, width: int = 8):
        super().__init__(noise=0.1, width=width)
        self.example_spec = {name: spec for name, spec in self.batch_spec.items() if name != "mask"}
        self.conditions_spec = {name: self.batch_spec[name] for name in ("x", "mask")}
        self.streams_spec = {"y": self.batch_spec["y"]}
        self.compiling = compiling

    def conditions(self, example, task):
        return {"x": example["x"]}, len(example["x"])

    def generate(self, params, conditions, keys, task=""):
        noise = jax.vmap(lambda key: jax.random.normal(key, (1, 8)))(keys)
        h = jnp.tanh((conditions["x"] + noise) @ params["hidden"]["kernel"])
        return {"y": jax.lax.with_sharding_constraint(h @ params["out"]["kernel"], jax.P("data"))}

    def loss(self, params, batch, key):
        until = time.monotonic() + self.compiling
        # one call takes a second, during which no Python signal handler can run
        while time.monotonic() < until:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000)
        return super().loss(params, batch, key)


COMMIT = "_background_wait_for_commit_futures"  # what Orbax's saving thread runs
# Where a job may be killed: the function that is entered there.
POINTS = {"restore": (checkpoints.Checkpoints, "restore"),
          "compile": (training.loop.CompiledStep, "__init__"),
          "record": (MetricsWriter, "record"), "step": (training.loop.CompiledStep, "__call__"),
          "evaluate": (evaluators.HeldOutLoss, "run"), "save": (checkpoints.Checkpoints, "save"),
          "commit": (async_checkpointer, COMMIT),
          "checksums": (checkpoints.Checkpoints, "_write_checksums"),
          "goodput": (goodput.Ledger, "_write")}


def kill_at(number: str, point: str, times: str) -> None:
    owner, name = POINTS[point]
    original, seen = getattr(owner, name), itertools.count(1)

    def entered(*args, **kwargs):
        if next(seen) == int(times):
            tell(f"hook {number} at {point} {times}")
            os.kill(os.getpid(), signal.Signals[number])
        return original(*args, **kwargs)

    setattr(owner, name, entered)


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def install(hooks: dict[str, str], workdir: Path) -> None:
    """Puts the hooks where they act."""
    system = System(compiling=float(hooks.get("compile", 0)), width=int(hooks.get("width", 8)))
    if "scored" in hooks:
        import scored

        system = scored.install()
    training.api.build = lambda config: system
    if "generate" in hooks:
        evaluators_of = training.make_evaluators
        training.make_evaluators = lambda *a: [*evaluators_of(*a), Generate(system, a[3])]

    def at(name):
        step, _, host = hooks[name].partition(":")
        return int(step), host

    next_batch, count = loader.Loader.__next__, {}

    def slow(self):
        number = count[id(self)] = count.get(id(self), self.get_state()["next_index"] - 1) + 1
        time.sleep(float(hooks.get("data", 0)))
        for name in {"hang", "raise", "full"} & hooks.keys():
            if at(name) in ((number, str(distributed.process_index())), (number, "*")):
                tell(f"hook {name}")
                if name == "full":
                    while not any(folder.name.isdigit()
                                  for folder in (workdir / "checkpoints").iterdir()):
                        time.sleep(0.01)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, resource.RLIM_INFINITY))
                    continue
                if name == "raise":
                    raise UserError("a broken record", where="shard 3")
                time.sleep(3600)
        return next_batch(self)

    loader.Loader.__next__ = slow
    if "kill" in hooks:
        kill_at(*hooks["kill"].split(":"))
    if "compile" in hooks:
        compiled = training.loop.CompiledStep.__init__
        training.loop.CompiledStep.__init__ = lambda *a: (tell("compiling"), compiled(*a))[1]
    if "evaluation" in hooks:
        never = evaluators.HeldOutLoss.run

        def run(self, params, step):
            ask = self.should_stop
            self.should_stop = lambda: (tell("evaluating"), time.sleep(float(hooks["evaluation"])),
                                        ask())[2]
            return never(self, params, step)

        evaluators.HeldOutLoss.run = run
    if "save" in hooks:
        save = checkpoints.Checkpoints.save

        def saving(self, *args, **kwargs):
            tell("saving")
            time.sleep(float(hooks["save"]))
            save(self, *args, **kwargs)

        checkpoints.Checkpoints.save = saving
    if "records" in hooks:
        close = training.loop.RunLog.close

        def closing(self):
            if distributed.is_main():
                time.sleep(float(hooks["records"]))
                tell("records are put away")
            close(self)

        training.loop.RunLog.close = closing
    if "absent" in hooks:
        barrier, (name, _, host) = distributed.barrier, hooks["absent"].partition(":")
        distributed.barrier = lambda n, s=None: time.sleep(3600) if (n,
                                                                     str(distributed.process_index(
                                                                         ))) == (name, host) \
            else barrier(n, s)


def main(argv) -> None:
    workdir, data, *given = argv
    pairs = dict(pair.split("=", 1) for pair in given)
    install({name[1:]: value for name, value in pairs.items() if name.startswith("@")},
            Path(workdir))
    overrides = {name: literal(value) for name, value in pairs.items() if not name.startswith("@")}
    config = toy.config(**{"data.dir": data, "train.loss_examples": 16,
                           "train.best_metric": "loss"} | overrides)
    config.system.name = "toy"
    config.lock()
    with hosts.session(config.train.heartbeat_timeout):
        train.run(config, Path(workdir))


def literal(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    train.flags.FLAGS.mark_as_parsed()
    exit_cleanly(main)(sys.argv[1:])
