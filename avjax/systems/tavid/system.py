"""All of TAVID as one System: dialogues from text and portraits, and S7, acoustics for mapped
voices.

Suffixes: B dialogues, S speakers, N units (50 Hz), V voice.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from avjax.systems import api
from avjax.systems.api import Rows, Spec
from avjax.systems.tavid import acoustic, mapper, speaker, streaming, text, visual
from avjax.systems.tavid.acoustic.rows import AcousticRows
from avjax.systems.tavid.config import check
from avjax.systems.tavid.history import HEARD, SAID

PARTS = {"text": text.System, "acoustic": acoustic.System, "visual": visual.System,
         "mapper": mapper.System, "speaker": speaker.System}
# the part that makes faces, and the stream that it makes, by config.faces
FACES = {"pictures": ("visual", "latents"), "motion": ("mapper", "motion")}


@dataclasses.dataclass(frozen=True)
class DialogueRows(Rows):
    """The acoustic part's rows, with what the speaker mapper sees of every speaker."""

    acoustic: AcousticRows
    faces: tuple[str, ...]

    @property
    def capacity(self):
        return self.acoustic.capacity

    def cost(self, lengths):
        return self.acoustic.cost(lengths)

    def kind(self, lengths):
        return self.acoustic.kind(lengths)

    def build(self, examples, rng):
        return self.acoustic.build(examples, rng) | {name: examples[0][name] for name in self.faces}


class System(api.System):
    """See avjax.systems.api.System. Parameters are {"text", "acoustic", "visual" (or "mapper", see
    config.faces), "speaker"}: those of the parts."""

    tasks = ("dialogue", "avatar", "speech")
    def __init__(self, config):
        check(config)
        self.config = c = FrozenConfigDict(config)
        self._face_part, seen = FACES[c.faces]
        unused = {part for part, _ in FACES.values()} - {self._face_part}
        self.parts = {name: make(c[name]) for name, make in PARTS.items() if name not in unused}
        self.makes = {"dialogue": ("units", "mel", seen, "voices"),  # from the text
                      "avatar": ("mel", seen, "voices"),  # from the units of every speaker
                      "speech": ("units", "mel", "voices")}  # from the text, without faces
        faces = self.parts["speaker"].conditions_spec
        self._sound = self.parts["acoustic"]
        self.rows = DialogueRows(self._sound.rows, tuple(faces))
        self.batch_spec = self._sound.batch_spec | faces
        self.example_spec, self.conditions_spec, self.streams_spec = {}, {}, {}
        for part in self.parts.values():
            self.example_spec |= part.example_spec
            self.conditions_spec |= part.conditions_spec
            self.streams_spec |= part.streams_spec
        # made by one part for another, or not asked for
        for made in ("voices", "prompt", "prompt_length"):
            self.conditions_spec.pop(made, None)
        self.conditions_spec["said_tokens"] = Spec(
            ("batch",), "int32", "text ids that begin the text and were said already, by the piece "
            "before")
        self.param_rules = tuple((f"{name}/(?:{pattern})", axes) for name,
                                 part in self.parts.items()
                                 for pattern, axes in part.param_rules)

    def init(self, key):
        """Fresh float32 parameters of every part."""
        return {name: part.init(jax.random.fold_in(key, i)) for i,
                (name, part) in enumerate(self.parts.items())}

    def loss(self, params, batch, key):
        """S7: the acoustic loss, with the voices of some speakers as the speaker mapper hears them
        in their faces. Freeze everything but `acoustic/` (config.optimizer.frozen)."""
        keys = jax.random.split(key)
        voices_BSV = batch["voices"]
        mapped_BSV = jax.lax.stop_gradient(self.voices(params, batch))
        mapped_BS1 = jax.random.bernoulli(keys[0], self.config.mapped_share,
                                          (*voices_BSV.shape[:2], 1))
        return self._sound.loss(params["acoustic"], batch, keys[1],
                                voices=jnp.where(mapped_BS1, mapped_BSV, voices_BSV))

    def voices(self, params, conditions):
        """(B, S, V): what every face sounds like. Nothing random."""
        given = {name: conditions[name] for name in self.parts["speaker"].conditions_spec}
        return self.parts["speaker"].generate(params["speaker"], given, None)["voices"]

    def conditions(self, example, task=""):
        """The inputs of the parts from an example; without the units where they are to come from
        the text, and the reverse."""
        out = {}
        frames = 0
        for part in self.parts.values():
            given, room = part.conditions(example, "")
            out = out | given
            frames = max(frames, room)
        unused = ("tokens", "token_speaker", "room") if task == "avatar" else ("units",)
        out |= {name: out[name][:0] for name in unused if name in out}
        out |= {f"{name}_length": np.int32(0) for name in ("tokens", "units") if name in unused}
        out["said_tokens"] = np.int32(0)
        return {name: out[name] for name in self.conditions_spec}, frames

    def generate(self, params, conditions, keys, task=""):
        """Streams of `makes[task]` with "<stream>_length", for conditions of every speaker; keys
        (B,).

        units (B, N, S), mel (B, T, S, 80), latents (B, T', S, h, w, c) or motion (B, T', S, M),
        voices (B, S, V).
        Optional conditions, of a piece that goes on from others: those of
        avjax.systems.tavid.history.
        """
        task = task or self.tasks[0]
        units = {name: conditions[name] for name in ("units", "units_length")}
        if task != "avatar":
            units = self.units(params, conditions, keys)
            units.pop("times", None)
        out = {"voices": self.voices(params, conditions)} | (units if task != "avatar" else {})
        out |= self.sound(params, conditions | units, out["voices"], keys)
        if task != "speech":
            out |= self.faces(params, conditions | units, keys)
        return out

    def faces(self, params, conditions, keys):
        """{"latents" or "motion", "<it>_length"} of every speaker, for units of all."""
        return self._run(self._face_part, params, conditions, keys, also=HEARD)

    @property
    def context(self) -> int:
        """Units that the text part has seen at once in training."""
        return self.config.text.row_frames

    def steps(self, task=""):
        """See avjax.systems.tavid.streaming.DialogueSampler."""
        return streaming.dialogue_sampler(self, task or self.tasks[0])

    def can_stream(self, task=""):
        """Every task: sound first, then video clip by clip."""
        return True

    def stream(self, params, prompts, keys, task=""):
        """See avjax.systems.tavid.streaming."""
        return streaming.stream(self, params, prompts, keys, task or self.tasks[0])

    def units(self, params, conditions, keys):
        """{"units", "units_length"} of the text: whole frames of video, two units each; of a piece
        that goes on also "times" (see `text.System.go_on`)."""
        if "said" in conditions:
            text = self.parts["text"]
            given = {n: conditions[n] for n in (*text.conditions_spec, *SAID)}
            made = text.go_on(params["text"], given, self.part_keys("text", keys))
        else:
            made = self._run("text", params, conditions, keys)
        units_BNS = made["units"]
        return made | {"units": units_BNS[:, :units_BNS.shape[1] // 2 * 2],
                       "units_length": made["units_length"] // 2 * 2}

    def sound(self, params, conditions, voices_BSV, keys):
        """{"mel", "mel_length"} of the units, which goes on from what was heard: where the acoustic
        part takes frames of the answer, its sound, else the units alone."""
        given = conditions | {"voices": voices_BSV}
        if "heard" in conditions:
            return self._sound.go_on(params["acoustic"], given, self.part_keys("acoustic", keys))
        return self._run("acoustic", params, given | {"prompt": None}, keys)

    def part_keys(self, name: str, keys):
        """Keys (B,) of one part."""
        return jax.vmap(lambda key: jax.random.fold_in(key, list(self.parts).index(name)))(keys)

    def _run(self, name: str, params, conditions, keys, also: tuple[str, ...] = ()):
        part = self.parts[name]
        given = {n: conditions[n] for n in (*part.conditions_spec, *also) if n in conditions}
        return part.generate(params[name], given, self.part_keys(name, keys))
