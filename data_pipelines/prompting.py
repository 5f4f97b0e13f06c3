"""What a person gives -> the conditions that a trained System generates from, a file a system:
`drive/<system>.py`.

Such a file has

    TAKES     fields of `Wish` that it reads; others are refused
    SETTINGS  {"steps" | "guidance" | "temperature": the field of config.system that it sets}
    plan(wish, system, decoder) -> Plan
    remarks(plan, out, system) -> list of lines     what the user should know about what `generate` returned
    stream(system, params, plan, keys) -> iterator of (streams so far, seconds of them)     where it can
    pieces(system, params, plan, keys) -> iterator like it     where what is made is longer than what `generate` makes at once

It serves `launch.generate` and whoever else lets a model speak.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping

import numpy as np

from avjax.errors import UserError
from data_pipelines import features
from data_pipelines.loading.loader import check_recipes
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import SPEAKERS


@dataclasses.dataclass(frozen=True)
class Wish:
    """What was asked for; empty = not given."""

    task: str = ""
    text: str = ""
    audio: str = ""  # a file
    motion: str = ""  # a file
    example: str = ""  # SPLIT/ID, or SPLIT/NUMBER, of a feature dataset
    data: str = ""  # its folder
    script: str = ""  # a file, see data_pipelines/features/tavid/script.py
    portraits: str = ""  # files, with commas between them: one of each party
    speakers: str = ""  # the script's names in the order of the portraits, with commas between them
    face: str = ""  # "unchecked" takes portraits as they are
    speaker: str = ""  # a name of the codec "speakers"
    prefix_seconds: float = 0.0
    max_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """One thing to generate.

    Attributes:
      task: one of the system's.
      conditions: a batch of one, padded.
      frames: how many of the streams' frames count where `generate` does not say itself.
      speaker, identity: whose face is drawn.
      noise: names the noise; the same name and seed give the same delivery.
      remarks: lines that the user should see.
      pieces: conditions of each piece where there are several to be made one after the other.
      parties: names, fit for files, where more than one party is made.
      seconds: about how long it will be, where there are pieces.
    """

    task: str
    conditions: dict[str, np.ndarray]
    frames: int
    speaker: str
    identity: np.ndarray | None
    noise: str
    remarks: tuple[str, ...] = ()
    pieces: tuple[dict[str, np.ndarray], ...] = ()
    parties: tuple[str, ...] = ()
    seconds: float = 0.0


def driver(system_name: str, where: str = ""):
    """The module of a system. Raises UserError for systems that do not speak."""
    known = sorted(m.name for m in pkgutil.iter_modules(features.__path__)
                   if importlib.util.find_spec(f"{features.__name__}.{m.name}.prompt"))
    if system_name not in known:
        raise UserError("this system does not speak", where=where,
                        expected=f"a trained {' or '.join(known)}", found=system_name,
                        hint="give the workdir of a job that trains one of them")
    return importlib.import_module(f"{features.__name__}.{system_name}.prompt")


def check_wish(wish: Wish, takes: tuple[str, ...], system_name: str) -> None:
    """UserError when something is asked for that the system knows nothing of."""
    for field in dataclasses.fields(wish):
        if getattr(wish, field.name) and field.name not in takes:
            raise UserError(f"{system_name} takes no --{field.name}", where=f"--{field.name}",
                            expected=", ".join(f"--{name}" for name in takes), hint="leave it out")
    # what Python makes of a terminal's other bytes
    if wish.text.encode(errors="replace").decode() != wish.text:
        raise UserError("unreadable text", where="--text", expected="UTF-8",
                        found=ascii(wish.text[:60]),
                        hint="set the terminal's encoding to UTF-8")


def read_example(wish: Wish, system, decoder) -> dict:
    """The row of `wish.example`, of a feature dataset that was made as the model's was. UserError
    when there is none."""
    if not wish.data:
        raise UserError("which dataset?", where="--example",
                        expected="--data=DIR, the folder of a feature dataset",
                        found="none")
    dataset = store.open_dataset(wish.data)
    check_recipes(dataset, decoder.recipes, system.example_spec, "the model's recipes.json")
    split, _, name = wish.example.partition("/")
    source = dataset.source(split)
    ids = source.ids
    at = next((ids.index(n) for n in (name, wish.example) if n in ids), None)
    if at is None and name.isdigit() and int(name) < len(ids):
        at = int(name)
    if at is None:
        near = difflib.get_close_matches(name, ids, n=1, cutoff=0.0)
        raise UserError("unknown example", where=f"--example, {dataset.dir}",
                        found=repr(wish.example), expected=f"an id of split {split}, e.g. "
                                                           f"{split}/{near[0] if near else ids[0]}, or a number below "
                        f"{len(ids)}")
    return source[at]


def check_task(task: str, system) -> None:
    if task not in system.tasks:
        raise UserError("unknown task", where="--task", expected=" or ".join(system.tasks),
                        found=repr(task))


def speakers(codecs: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """{speaker: identity vector} that a workdir's codecs know, those heard most in training
    first."""
    arrays = codecs.get(SPEAKERS, {"names": (), "identity": ()})
    return {str(name): vector for name,
            vector in zip(arrays["names"], arrays["identity"], strict=True)}


def choose_speaker(name: str, known) -> str:
    """`name`, or the first one known when it is empty. UserError when it is unknown or there is
    none."""
    if not known:
        raise UserError("this model knows no speakers", where="codecs/speakers.npz",
                        expected="names and identities", found="none",
                        hint="extract the features from clips that name their speakers")
    if name and name not in known:
        raise UserError("unknown speaker", where="--speaker", expected=" or ".join(known),
                        found=repr(name))
    return name or next(iter(known))


def check_fits(spec, name: str, array: np.ndarray) -> None:
    """UserError unless the last axis has the model's width."""
    if array.shape[-1] != spec.shape[-1]:
        raise UserError(f"{name} of another width", where=name, expected=str(spec.shape[-1]),
                        found=str(array.shape[-1]), hint="use the front-end that the model was "
                                                         "trained with")
