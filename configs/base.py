"""Every field that an experiment may set: its type, default and meaning, whether a resumed run may
change it.

Experiments start from `get_config()` and override; the config is then locked, so a misspelt key on
the command line is an error that names the nearest valid key. `avjax config` prints all
of this with the values of an experiment. The fields of `config.system` are declared in
avjax/systems/<name>/config.py.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from avjax.fields import Section, field


def benchmark_names() -> tuple[str, ...]:
    from eval import benchmarks

    return ("", *benchmarks.names())


def _is_split(name: str) -> bool:
    return bool(name) and "," not in name and name == name.strip()


Source = tuple[str, str, float] | tuple[str, str, float, str]


class Data(Section):
    dir: str = field("", 'Folder of a feature dataset; "{workdir}" is replaced.', resume="free")
    train_split: str = field("train", "Split of it that is trained on.")
    mixture: tuple[Source, ...] = field(
        (), "In place of dir and train_split, several sources: (folder, split, weight), or "
        "(folder, split, weight, view) where the system sees examples in several ways. Weights "
        "are shares of a step's rows, whatever they sum to. The first source is also what is held "
        "out, and decoded with; \"{workdir}\" is replaced.")
    batch_size: int = field(16, "Examples a step, or rows of several examples (System.rows), over "
                            "all hosts and devices.", minimum=1)
    segment: int = field(345, "Frames an example; not read by systems that train on complete "
                         "examples (System.rows).", minimum=1)
    threads: int = field(2, "Reader threads; the order of examples does not depend on it.",
                         minimum=0, resume="free")

    @staticmethod
    def relations(c, need):
        need(_is_split(c.train_split), "train_split", "the name of a split")
        need(not (c.dir and c.mixture), "mixture", f"() where dir = {c.dir!r}",
             hint="--config.data.dir=None, or make that folder one of the sources")
        seen = set()
        for folder, split, weight, *view in c.mixture:
            need(bool(folder), "mixture", "a folder in every source")
            need(_is_split(split), "mixture", "the name of a split in every source")
            need(0 < weight < math.inf, "mixture",
                 f"a finite weight above 0 of {folder!r}, {split}",
                 hint="leave out what is not to be read")
            # however a folder is spelt; as launch/data.py opens each of them once
            source = (Path(folder).absolute(), split, *filter(None, view))
            need(source not in seen, "mixture", "every source once",
                 hint=f"{folder!r}, {split}, is there twice: add its weights")
            seen.add(source)


class Optimizer(Section):
    name: str = field("adamw", "The algorithm; muon orthogonalises the steps of products and "
                      "convolutions, at Adam's size, and is Adam for the rest: a short training "
                      "needs fewer steps, each a little dearer.",
                      choices=("adamw", "adam", "lion", "adafactor", "muon", "sgd"))
    learning_rate: float = field(1e-4, "Its peak.", minimum=0)
    schedule: str = field("constant", "The learning rate after the warm-up; rsqrt falls with the "
                          "inverse square root of the step, cosine and linear end at train.steps, "
                          "exponential is multiplied by decay every step.",
                          choices=("constant", "cosine", "linear", "rsqrt", "exponential"))
    decay: float = field(1.0, "Factor of the learning rate a step (exponential).", above=0)
    warmup_steps: int = field(0, "Steps in which the learning rate rises from 0.", minimum=0)
    final_fraction: float = field(0.0, "Learning rate at the end as a fraction of the peak "
                                  "(cosine, linear).", minimum=0)
    b1: float = field(0.9, "Decay of the gradients' average.", minimum=0, below=1)
    b2: float = field(0.98, "Decay of their squares' average.", minimum=0, below=1)
    eps: float = field(1e-9, "Added to the denominator of Adam's update.", minimum=0)
    weight_decay: float = field(0.0, "Decoupled weight decay, times the learning rate.", minimum=0)
    no_decay: tuple[str, ...] = field((r".*/bias$", r".*/scale$"), "Regular expressions of the "
                                      "paths of parameters without weight decay.")
    frozen: tuple[str, ...] = field((), "Regular expressions of the paths of parameters that never "
                                    "change.")
    frozen_dtype: str = field("float32", "How those of two axes and more are kept in memory and in "
                              "checkpoints. bfloat16 halves them, and changes nothing that is "
                              "computed in bfloat16.", choices=("float32", "bfloat16"))
    clip_norm: float = field(0.0, "Largest global norm of the gradients; 0 = off.", minimum=0)
    turn_rates: tuple[tuple[str, float], ...] = field(
        (), "Of a system that is updated in turns: (turn, factor of its learning rate).")
    accumulate: int = field(1, "Micro-batches a step.", minimum=1)
    whole_params: bool = field(False, "Every device keeps whole parameters; mesh.fsdp splits the "
                               "optimiser state and the average alone (ZeRO's first stage).",
                               resume="free")
    ema_decay: float = field(0.0, "Of the parameters' moving average, which evaluation then uses; "
                             "0 = off.", minimum=0, below=1)

    @staticmethod
    def relations(c, need):
        need(c.schedule != "rsqrt" or c.warmup_steps >= 1, "warmup_steps",
             ">= 1 where schedule is rsqrt", hint="the warm-up sets its scale")


class Train(Section):
    steps: int = field(1_000_000, "Steps of training, those before a resume included.", minimum=0,
                       resume="unscheduled")
    init_from: str = field("", "A workdir or checkpoint whose parameters a new run begins with; "
                           '"{workdir}" is replaced.', resume="free")
    init_parts: tuple[tuple[str, str, str], ...] = field(
        (), "Parameters that a new run begins with, a subtree at a time: (subtree, workdir that "
        'fills it, subtree of that one\'s or "").', resume="free")
    init_include: tuple[str, ...] = field((r".*",), "Regular expressions of the paths of the "
                                          "parameters that are taken over; others stay fresh.",
                                          resume="free")
    init_other_features: bool = field(False, "Allows parameters that were trained on features made "
                                      "with another recipe.", resume="free")
    log_every: int = field(50, "Steps between lines of metrics.", resume="free")
    checkpoint_every: int = field(5000, "Steps between checkpoints.", resume="free")
    local_dir: str = field("", "A folder of every host's own disk (or /dev/shm) for frequent "
                           'checkpoints, see avjax.checkpoint.tiers; "" = none.', resume="free")
    local_every: int = field(500, "Steps between those.", resume="free")
    keep_last: int = field(2, "Newest checkpoints that are kept.", resume="free")
    keep_best: int = field(1, "Best checkpoints that are kept, by best_metric.", resume="free")
    best_metric: str = field("loss", "A metric of the evaluation during training.", resume="free")
    best_mode: str = field("min", "Whether less of it is better, or more.", choices=("min", "max"),
                           resume="free")
    evaluate_every: int = field(5000, "Steps between evaluations; 0 = none.", resume="free")
    loss_examples: int = field(64, "Held-out examples of the loss during training.", resume="free")
    nan_policy: str = field("stop", "What a loss that is not finite does: stop, or skip the step.",
                            choices=("stop", "skip"), resume="free")
    max_skips: int = field(10, "Skipped steps in a row after which training stops all the same.",
                           resume="free")
    profile_at: int = field(-1, "First step of an XProf trace; -1 = none.", resume="free")
    profile_steps: int = field(5, "Steps of the trace.", resume="free")
    wandb: str = field("", 'A Weights & Biases project that gets the scalars too; "" = none.',
                       resume="free")
    watchdog_seconds: float = field(0.0, "Seconds without a completed step after which stacks are "
                                    "printed and the job exits with 75; 0 = off.", resume="free")
    save_timeout: float = field(1200.0, "Seconds for a checkpoint to be complete on disk.",
                                resume="free")
    barrier_timeout: float = field(600.0, "Seconds that hosts wait for each other.", resume="free")
    heartbeat_timeout: float = field(100.0, "Seconds of silence after which a host counts as dead.",
                                     resume="free")
    peak_flops: float = field(0.0, "FLOP/s of one device, for MFU; 0 = the data sheet's where "
                              "known, else measured.", minimum=0, resume="free")

    @staticmethod
    def relations(c, need):
        need(not c.local_dir or c.local_every >= 1, "local_every", "steps >= 1 where local_dir is "
             "set")


def _check_axes(c, need) -> None:
    for axis in c:
        need(c[axis] >= 1 or c[axis] == -1, axis, ">= 1, or -1 for what is left")
        need(list(c.values()).count(-1) <= 1, axis, "at most one axis of -1")


class Mesh(Section):
    data: int = field(-1, "Devices that split the batch and replicate the parameters.")
    fsdp: int = field(1, "Devices that split the batch and the parameters.")
    seq: int = field(1, "Devices that split the sequences.")
    tensor: int = field(1, "Devices that split the widths of layers.")
    relations = staticmethod(_check_axes)


class AcrossSlices(Section):
    data: int = field(1, "Slices that split the batch and replicate the parameters.")
    fsdp: int = field(1, "Slices that split the batch and the parameters.")
    relations = staticmethod(_check_axes)


class Plan(Section):
    topology: str = field("", 'Machines of the experiment, e.g. "v5e:16x16"; see avjax plan.')
    slices: int = field(1, "How many of them.", minimum=1)


class Evaluate(Section):
    benchmark: str = field("", "A file of eval/benchmarks; none = the loss only.",
                           choices=benchmark_names)
    splits: tuple[str, ...] = field(("valid",), "Splits that are scored; the first is the held-out "
                                    "one of training.")
    tasks: tuple[str, ...] = field((), "Tasks of the system that are scored; () = all.")
    max_examples: int = field(0, "Examples of a split; 0 = all.", minimum=0)
    in_loop_examples: int = field(8, "Examples of the benchmark that are scored during training.",
                                  minimum=0)
    batch_size: int = field(4, "Examples that are generated at once.", minimum=1)
    seed: int = field(0, "Of the noise that generation starts from.")
    activity: str = field("energy", "What tells speech from silence in dialogues: energy, of the "
                          "mel, or neural, of the sound that the mel makes; options as in "
                          "docs/data.md.")
    vocoder: str = field("", "What makes the sound that is scored, the truth's too: file, folder "
                         "or workdir of a BigVGAN, or griffin-lim; default as in docs/vocoder.md.",
                         resume="free")
    geometry: str = field("", "A Codec Avatar's decoder, whose vertices tell lips and smiles; see "
                          "docs/listening.md.", resume="free")
    lip_vertices: str = field("", "Which of its vertices are lips, a JSON file.", resume="free")
    networks: str = field("", "Folder with the files of published networks that judge what was "
                          "made; see docs/metrics.md.", resume="free")
    streamed: bool = field(False, "Sound, faces and poses as avjax generate --stream decodes them, "
                           "the truth's too.", resume="free")

    @staticmethod
    def relations(c, need):
        need(all(map(_is_split, c.splits)), "splits", "names of splits, each by itself")
        need(bool(c.splits) or not c.benchmark, "splits", "a split where benchmark is set",
             hint="name one, or set benchmark=None")


class Sample(Section):
    text: str = field("", "A sentence to speak.")
    audio: str = field("", "A file of speech that drives the sample.")
    example: str = field("", "An example of the dataset: split/id or split/number.")
    tasks: tuple[str, ...] = field((), "Each gives a sample_<task>, from the example, or from the "
                                   "text or audio where there is no example.")


class Stream(Section):
    chunk: int = field(0, "Frames of conditions that are taken at a time, where the system lets "
                       "one choose; 0 = what suits it.", minimum=0)
    vocoder_block: int = field(16, "Frames of mel that the vocoder makes sound of at a time.",
                               minimum=1)
    vocoder_ahead: int = field(8, "Frames after them that Griffin-Lim looks at; BigVGAN needs its "
                               "own number.", minimum=0)


class Experiment(Section):
    name: str = field("base", "Of the experiment, in names of jobs and reports.", resume="free")
    seed: int = field(0, "Of parameters, order of examples and noise.")
    stages: tuple[Mapping, ...] = field((), "Run before training, in order, each skipped when its "
                                        "output is complete; see launch/jobs/stages.py.",
                                        resume="free")
    system: Mapping = field({}, "What is trained: `name` picks avjax/systems/<name>, whose "
                            "config.py has the other fields.")
    data: Data = field(None, "What it is trained on.")
    optimizer: Optimizer = field(None, "How parameters are updated.")
    train: Train = field(None, "Length, records and safety of the run.")
    mesh: Mesh = field(None, "Devices within a slice, axis by axis; -1 = those that are left.",
                       resume="free")
    dcn: AcrossSlices = field(None, "Slices, axis by axis; -1 = their number.", resume="free")
    plan: Plan = field(None, "What the experiment is meant for.", resume="free")
    evaluate: Evaluate = field(None, "Scores on held-out examples.", resume="free")
    stream: Stream = field(None, "How avjax generate --stream goes about it.", resume="free")
    sample: Sample = field(None, "What avjax train generates once training is done, see "
                           "avjax generate.", resume="free")


def get_config() -> ConfigDict:
    return Experiment.make()


def in_common(value):
    """Stages, or a path of theirs, with the workdir's folders moved to `common` beside it: what the
    members of a sweep share is made once (docs/sweeps.md)."""
    if hasattr(value, "items"):
        return {key: in_common(of) for key, of in value.items()}
    if isinstance(value, tuple):
        return tuple(in_common(of) for of in value)
    return value.replace("{workdir}", "{workdir}/../common") if isinstance(value, str) else value
