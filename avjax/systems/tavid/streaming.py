"""TAVID's `generate` step by step: the units and the sound, then the video clip by clip, handed out
as they are made.

What comes out equals `System.generate` with the same keys, but nothing is spent on frames that the
text does not need: `generate` must make room for the longest answer and fills all of it. One
dialogue at a time.

Suffixes: B batch (of one), N = speakers, R motion frames, T frames, S speakers, M mel bands,
h w C latents.
"""

import functools
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from avjax.systems.api import Batch, Chunk, Params, System, bucket
from avjax.systems.tavid.acoustic.expand import UNIT_RATE, mel_frames
from avjax.systems.tavid.history import FOLLOWING, History, followed
from avjax.systems.tavid.visual import sampler

CLIPS = 6  # the shortest room that is compiled for; a clip is compiled once
TIMED = ("units", "mel", "latents", "motion")


@functools.lru_cache(maxsize=16)
def dialogue_sampler(system: System, task: str) -> "DialogueSampler":
    """Kept, so that later dialogues compile nothing that an earlier one compiled."""
    return DialogueSampler(system, task)


class DialogueSampler:
    """One task of a System (avjax.systems.tavid.System), compiled part by part."""

    def __init__(self, system: System, task: str):
        self._task = task
        self._silence = system.config.text.filler
        self._units = jax.jit(system.units)
        self._sound = jax.jit(system.sound)
        self._voices = jax.jit(system.voices)
        self._frames = 1  # of a clip
        visual = system.parts.get("visual")
        if visual is None:  # faces are quick: all of a piece at once
            self._motion = jax.jit(system.faces)
            return
        self._motion = None
        self._frames = visual.config.clip
        self._before = visual.config.unet.motion_frames

        def clip(params, k, reference, faces, tokens, keys_N, before):
            tokens = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(
                x, k * self._frames, self._frames, 1), tokens)
            keys_N = jax.vmap(lambda key: jax.random.fold_in(key, k))(keys_N)
            return sampler.sample_clip(visual, params["visual"], reference, faces, tokens, before,
                                       keys_N)

        self._begin = jax.jit(lambda params, given,
                              keys: sampler.begin(visual, params["visual"], given,
                                                  system.part_keys("visual", keys)))
        self._clip = jax.jit(clip)

    def __call__(self, params: Params, conditions: Batch, keys: jax.Array) -> Iterator[Chunk]:
        """Conditions and keys of `System.generate` for a batch of one -> the sound with everything
        but the video, then every clip of it. Optional condition followed (1,): whether another
        piece comes behind this one (see avjax.systems.tavid.history)."""
        given = dict(conditions)
        more = bool(given.pop("followed", [False])[0]) and self._silence >= 0
        if self._task != "avatar":
            given |= self._units(params, given, keys)
        length = int(given["units_length"][0])
        room = bucket(length, 2 * self._frames * CLIPS)
        units = np.asarray(given["units"])[:, :room]
        given["units"] = np.pad(units, ((0, 0), (0, room - units.shape[1]), (0, 0)))
        voices = self._voices(params, given)
        sound = jax.device_get(self._sound(params, given, voices, keys))
        heard = int(sound["mel_length"][0])
        out = {"voices": np.asarray(voices), "mel": sound["mel"][:, :heard],
               "mel_length": sound["mel_length"]}
        if self._task != "avatar":
            out |= {"units": given["units"][:, :length],
                    "units_length": np.array([length], np.int32)}
        if "times" in given:
            out["times"] = np.asarray(given["times"])
        if self._task == "speech":
            yield Chunk(out, length / UNIT_RATE)
            return
        frames = length // 2
        if more:
            room = bucket(length + FOLLOWING, 2 * self._frames * CLIPS)
            given |= followed(units, length, self._silence, room)
        if self._motion:
            made = np.asarray(self._motion(params, given, keys)["motion"])[:, :frames]
            yield Chunk(out | {"motion": made, "motion_length": np.array([frames], np.int32)},
                        length / UNIT_RATE)
            return
        none = np.zeros((1, 0, *given["reference"].shape[1:]), np.float32)
        yield Chunk(out | {"latents": none, "latents_length": np.array([0], np.int32)}, 0.0)
        *always, before = self._begin(params, given, keys)
        for k, first in enumerate(range(0, frames, self._frames)):
            made_NFhwC = self._clip(params, k, *always, before)
            before = made_NFhwC[:, -self._before:]
            end = min(first + self._frames, frames)
            made = np.moveaxis(np.asarray(made_NFhwC), 0, 1)[None, :end - first]
            yield Chunk({"latents": made, "latents_length": np.array([end], np.int32)},
                        (length if end == frames else 2 * end) / UNIT_RATE)


def stream(system: System, params: Params, prompts: Iterable[Batch], keys: jax.Array,
           task: str) -> Iterator[Chunk]:
    """See avjax.systems.api.System. `prompts` are consecutive pieces of one dialogue: each goes on
    from what all speakers said in those before (avjax.systems.tavid.history) and from the last
    video frames, and sound is fitted to the clock of the units, so that it never runs away from the
    pictures. "full" (1,) counts the pieces whose text filled all the room there was."""
    steps = system.steps(task)
    carried: Batch = {}
    total = {}
    begin = 0  # units of earlier pieces
    seconds = 0.0
    full = 0
    history: History | None = None
    for k, (conditions, more) in enumerate(_with_more(prompts)):
        if task != "avatar" and (more or history):
            history = history or History(system)
            conditions = history.before(conditions)
        piece_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, k) if k else keys
        conditions = conditions | {"followed": np.array([more])}
        clock = begin
        last_BTShwC = None
        chunk = None
        for chunk in steps(params, conditions | carried, piece_keys):
            new = {name: x for name, x in chunk.streams.items()
                   if not name.endswith("_length") and (k == 0 or name in TIMED)
                   and name != "times"}
            if "mel" in new:
                clock += int(chunk.streams.get("units_length", conditions["units_length"])[0])
                new["mel"] = fitted(new["mel"], mel_frames(clock) - mel_frames(begin))
            if "latents" in new:
                seen = new["latents"] if last_BTShwC is None else np.concatenate(
                    [last_BTShwC, new["latents"]], axis=1)
                last_BTShwC = seen[:, -conditions["first_motion"].shape[2]:]
            for name in TIMED:
                if name in new:
                    total[name] = total.get(name, 0) + new[name].shape[1]
                    new[f"{name}_length"] = np.array([total[name]], np.int32)
            if task != "avatar" and "units" in new:
                full += new["units"].shape[1] >= _room(system, conditions)
                if history:
                    history.add(conditions, new["units"], new["mel"], chunk.streams.get("times"))
            yield Chunk(new | {"full": np.array([full])}, seconds + chunk.seconds)
        begin = clock
        seconds += chunk.seconds if chunk else 0.0
        carried = carried_on(last_BTShwC, conditions) or carried


def _with_more(prompts: Iterable[Batch]) -> Iterator[tuple[Batch, bool]]:
    """Each, and whether it is followed by another."""
    prompts = iter(prompts)
    ahead = next(prompts, None)
    while ahead is not None:
        one, ahead = ahead, next(prompts, None)
        yield one, ahead is not None


def _room(system: System, conditions: Batch) -> int:
    """Units, whole frames of video, that a piece has room for."""
    room = conditions["room"].shape[1]
    if "said_length" in conditions:
        room = min(room, max(system.context, room) - int(conditions["said_length"][0]))
    return room // 2 * 2


def fitted(mel_BTSM: np.ndarray, frames: int) -> np.ndarray:
    """Sound of a piece in as many frames as its units take on the clock of all pieces. Frames last
    256 / 22050 s, pieces a multiple of 1 / 50 s: where a piece is less than a frame short, its last
    frame is held."""
    mel_BTSM = mel_BTSM[:, :frames]
    missing = ((0, 0), (0, frames - mel_BTSM.shape[1]), (0, 0), (0, 0))
    return np.pad(mel_BTSM, missing, mode="edge" if mel_BTSM.shape[1] else "constant")


def carried_on(last_BTShwC: np.ndarray | None, conditions: Batch) -> Batch:
    """What the next piece continues from: first_motion (1, S, R, h, w, C), has_first (1,)."""
    if last_BTShwC is None or not last_BTShwC.shape[1]:
        return {}
    missing = conditions["first_motion"].shape[2] - last_BTShwC.shape[1]
    last = np.concatenate([last_BTShwC[:, :1]] * missing + [last_BTShwC], axis=1)
    return {"first_motion": np.swapaxes(last, 1, 2).astype(conditions["first_motion"].dtype),
            "has_first": np.ones(1, conditions["has_first"].dtype)}
