"""What a person gives -> the conditions that a trained System generates from.

data_pipelines/features/<system>/prompt.py holds a `PromptBuilder` for every system that can be
prompted: which inputs it takes (they become flags of `launch.generate`), and what it makes of them.
"""

import dataclasses
import difflib
import functools
import importlib
import importlib.util
import math
import pkgutil
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from avjax.errors import UserError
from data_pipelines import features
from data_pipelines.declared import subclass_in
from data_pipelines.loading.loader import check_recipes
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import SPEAKERS

Request = types.SimpleNamespace  # the inputs that a builder takes, by name; see `request`


@dataclasses.dataclass(frozen=True)
class Input:
    """Something that a request may hold, and a flag of `launch.generate`.

    Attributes:
      name: of the field and of the flag.
      help: one sentence for --help.
      kind: str, float, int or bool; 0 and "" mean that it was not given.
    """

    name: str
    help: str
    kind: type = str


TASK = Input("task", "What to make, where a system can make several things; default: what fits the "
                     "other inputs.")
TEXT = Input("text", "Sentence to speak.")
LANGUAGE = Input("language", "Of the text, as espeak-ng calls it; default the one that the "
                             "text-to-tokens network has learned.")
AUDIO = Input("audio", "Speech file (any format, any rate): drives, or is continued, or gives the "
                       "voice.")
EXAMPLE = Input("example", "SPLIT/ID or SPLIT/NUMBER of a dataset: its text, audio, motion and "
                           "speaker.")
DATA = Input("data", "Feature dataset of --example; default the one that the model was trained on.")
SPEAKER = Input("speaker", "Which speaker of the training data; default the one of the other "
                           "inputs, else the one heard most.")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One thing to generate.

    Attributes:
      task: one of the system's.
      pieces: conditions (as of `System.conditions`: no batch axis, not padded) of each of the
        consecutive pieces; usually of one.
      frames: to make room for in one piece; also how many of the streams' frames count where
        `generate` does not return lengths.
      name: names the noise; the same name and seed give the same delivery.
      bounded: `frames` is the most that may be made, rather than room that may be padded.
      speaker, identity: whose face is drawn; of several speakers one identity each (S, I).
      remarks: lines that the user should see.
      speakers: names, fit for files, where there are several.
      seconds: about how long it will be, where that is known; 0.0 = it is not.
      given: streams that are written with the made ones: {name: (time, ...)}.
      texts: of the pieces, where a text was cut into them.
      shown: pictures a second and the pictures, (H, W, 3) uint8 each, that are written instead of
        drawn ones: of a film that is dubbed.
    """

    task: str
    pieces: tuple[dict[str, np.ndarray], ...]
    frames: int
    name: str
    bounded: bool = False
    speaker: str = ""
    identity: np.ndarray | None = None
    remarks: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()
    seconds: float = 0.0
    given: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    texts: tuple[str, ...] = ()
    shown: Callable[[], tuple[float, Iterable[np.ndarray]]] | None = None

    @property
    def conditions(self) -> dict[str, np.ndarray]:
        """Of the first piece."""
        return self.pieces[0]


class PromptBuilder:
    """How one system is prompted.

    Attributes:
      SYSTEM: its name, where the folder is not called so.
      TAKES: the inputs that it reads; a request with others raises UserError.
      SETTINGS: {"steps" | "guidance" | "temperature" | "length_scale": fields of config.system that
        the flag sets}.
    """

    SYSTEM: str = ""
    TAKES: tuple[Input, ...] = (TASK, EXAMPLE, DATA)
    SETTINGS: Mapping[str, Sequence[str]] = {}

    def build(self, request: Request, system, decoder) -> Prompt:
        """What a request means to a system; generates nothing. UserError for whatever is
        unusable."""
        raise NotImplementedError

    def recut(self, prompt: Prompt, system, frames: int) -> Prompt:
        """The prompt in pieces of so many frames of conditions, for a stream that takes them one by
        one; 0 = as many as suits the system. UserError where pieces cannot be chosen."""
        if frames:
            raise UserError(f"{type(self).__module__.split('.')[-2]} chooses its chunks itself",
                            where="--chunk", found=str(frames), hint="leave it out")
        return prompt

    def remarks(self, prompt: Prompt, out: Mapping[str, np.ndarray], system) -> list[str]:
        """Lines that the user should see about what was generated (`System.generate`'s return
        value for a batch of one)."""
        return []

    def told(self, prompt: Prompt, out: Mapping[str, np.ndarray], system) -> dict[str, Any]:
        """What the results of a generation hold beside how it went, as JSON values; `out` as for
        `remarks`."""
        return {}

    def request(self, where: str, **given: Any) -> Request:
        """A Request of what was given; inputs that were not are "" or 0.

        Args:
          where: names the system in errors.

        Raises:
          UserError: an input that this system does not take, or one of another type; a number that
            is none; text that is no UTF-8.
        """
        known = {field.name: field for field in self.TAKES}
        values = {field.name: field.kind() for field in self.TAKES}
        for name, value in given.items():
            if name not in known:
                if value:
                    raise UserError(f"{where} takes no --{name}", where=f"--{name}",
                                    expected=", ".join(f"--{n}" for n in known),
                                    hint="leave it out")
                continue
            kind = known[name].kind
            fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
            if not fits or isinstance(value, bool) != (kind is bool):
                raise UserError("a value of another type", where=f"--{name}",
                                expected=kind.__name__, found=repr(value))
            values[name] = kind(value)
            if kind is float and not math.isfinite(values[name]):
                raise UserError("no number", where=f"--{name}", expected="a finite one",
                                found=repr(value))
            # what Python makes of a terminal's other bytes
            if kind is str and value.encode(errors="replace").decode() != value:
                raise UserError(f"unreadable {name}", where=f"--{name}", expected="UTF-8",
                                found=ascii(value[:60]),
                                hint="set the terminal's encoding to UTF-8")
        return Request(**values)


def systems() -> tuple[str, ...]:
    """The systems that can be prompted, by their folders."""
    return tuple(sorted(_builders()))


@functools.cache
def _builders() -> dict[str, PromptBuilder]:
    """{system: how it is prompted}."""
    found = (m.name for m in pkgutil.iter_modules(features.__path__)
             if importlib.util.find_spec(f"{features.__name__}.{m.name}.prompt"))
    built = {name: subclass_in(importlib.import_module(f"{features.__name__}.{name}.prompt"),
                               PromptBuilder)() for name in found}
    return {builder.SYSTEM or name: builder for name, builder in built.items()}


def builder(system_name: str, where: str = "") -> PromptBuilder:
    """How a system is prompted. UserError for a system that is not."""
    if system_name not in systems():
        raise UserError("this system does not speak", where=where,
                        expected=f"a trained {' or '.join(systems())}", found=system_name,
                        hint="give the workdir of a job that trains one of them")
    return _builders()[system_name]


def inputs() -> dict[str, tuple[Input, tuple[str, ...]]]:
    """{name: (input, systems that take it)} of all systems. UserError where two systems take an
    input of one name and different types."""
    found: dict[str, tuple[Input, tuple[str, ...]]] = {}
    for system in systems():
        for field in builder(system).TAKES:
            first, takers = found.get(field.name, (field, ()))
            if first.kind is not field.kind:
                raise UserError("two inputs of one name", where=f"--{field.name}",
                                expected=f"{first.kind.__name__}, as {takers[0]} has it",
                                found=f"{field.kind.__name__} of {system}", hint="rename one")
            found[field.name] = first, (*takers, system)
    return found


def read_example(request: Request, system, decoder) -> dict:
    """The row of `request.example`, of a feature dataset that was made as the model's was.
    UserError when there is none."""
    if not request.data:
        raise UserError("which dataset?", where="--example",
                        expected="--data=DIR, the folder of a feature dataset",
                        found="none")
    dataset = store.open_dataset(request.data)
    check_recipes(dataset, decoder.recipes, system.example_spec, "the model's recipes.json")
    split, _, name = request.example.partition("/")
    source = dataset.source(split)
    ids = source.ids
    at = next((ids.index(n) for n in (name, request.example) if n in ids), None)
    if at is None and name.isdigit() and int(name) < len(ids):
        at = int(name)
    if at is None:
        near = difflib.get_close_matches(name, ids, n=1, cutoff=0.0)
        raise UserError("unknown example", where=f"--example, {dataset.dir}",
                        found=repr(request.example),
                        expected=f"an id of split {split}, e.g. {split}/"
                                 f"{near[0] if near else ids[0]}, or a number below {len(ids)}")
    return source[at]


def check_task(task: str, system) -> None:
    """UserError that lists the tasks unless `task` is one."""
    if task not in system.tasks:
        raise UserError("unknown task", where="--task", expected=" or ".join(system.tasks),
                        found=repr(task))


def identities(codecs: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
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
