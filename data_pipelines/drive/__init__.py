"""What a person gives -> the conditions that a trained System generates from, a file a system: `drive/<system>.py`.

Such a file has

    TAKES     fields of `Wish` that it reads; others are refused
    SETTINGS  {"steps" | "guidance" | "temperature": the field of config.system that it sets}
    plan(wish, system, decoder) -> Plan
    remarks(plan, out, system) -> list of lines     what the user should know about what `generate` returned
    stream(system, params, plan, keys) -> iterator of (streams so far, seconds of them)     where it can

It serves `launch.generate` and whoever else lets a model speak.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping

import numpy as np

from avjax.errors import UserError
from data_pipelines.schema import SPEAKERS


@dataclasses.dataclass(frozen=True)
class Wish:
    """What was asked for; empty = not given."""

    task: str = ""
    text: str = ""
    audio: str = ""  # a file
    motion: str = ""  # a file
    example: str = ""  # SPLIT/ID, or SPLIT/NUMBER, of a feature dataset
    data: str = ""  # its folder
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
    """

    task: str
    conditions: dict[str, np.ndarray]
    frames: int
    speaker: str
    identity: np.ndarray | None
    noise: str
    remarks: tuple[str, ...] = ()


def driver(system_name: str, where: str = ""):
    """The module of a system. Raises UserError for systems that do not speak."""
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if system_name not in known:
        raise UserError("this system does not speak", where=where, expected=f"a trained {' or '.join(known)}",
                        found=system_name, way_out="give the workdir of a job that trains one of them")
    return importlib.import_module(f"{__name__}.{system_name}")


def check_wish(wish: Wish, takes: tuple[str, ...], system_name: str) -> None:
    """UserError when something is asked for that the system knows nothing of."""
    for field in dataclasses.fields(wish):
        if getattr(wish, field.name) and field.name not in takes:
            raise UserError(f"{system_name} takes no --{field.name}", where=f"--{field.name}",
                            expected=", ".join(f"--{name}" for name in takes), way_out="leave it out")


def check_task(task: str, system) -> None:
    if task not in system.tasks:
        raise UserError("unknown task", where="--task", expected=" or ".join(system.tasks), found=repr(task))


def speakers(codecs: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """{speaker: identity vector} that a workdir's codecs know, those heard most in training first."""
    arrays = codecs.get(SPEAKERS, {"names": (), "identity": ()})
    return {str(name): vector for name, vector in zip(arrays["names"], arrays["identity"], strict=True)}


def choose_speaker(name: str, known) -> str:
    """`name`, or the first one known when it is empty. UserError when it is unknown or there is none."""
    if not known:
        raise UserError("this model knows no speakers", where="codecs/speakers.npz", expected="names and identities",
                        found="none", way_out="extract the features from clips that name their speakers")
    if name and name not in known:
        raise UserError("unknown speaker", where="--speaker", expected=" or ".join(known), found=repr(name))
    return name or next(iter(known))


def check_fits(spec, name: str, array: np.ndarray) -> None:
    """UserError unless the last axis has the model's width."""
    if array.shape[-1] != spec.shape[-1]:
        raise UserError(f"{name} of another width", where=name, expected=str(spec.shape[-1]), found=str(array.shape[-1]),
                        way_out="use the front-end that the model was trained with")
