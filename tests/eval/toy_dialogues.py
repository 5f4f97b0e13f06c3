"""Dialogues of numbers, and a system that reacts to its partners in them or does not."""

import json
import types

import numpy as np

from avjax.signal import mel
from avjax.systems import api
from avjax.systems.api import Spec
from data_pipelines import decode
from data_pipelines.puppets import face_code
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature
from eval.data.conversations import POSE

FRAMES, SPEAKERS, CODE = 100, 2, face_code.WIDTH
WIDTH = CODE + POSE


class ToyDecoder(decode.Decoder):
    """Latents are the motion itself, one number a "pixel"."""

    sample_rate, has_face = mel.RECIPE["sample_rate"], True
    face_kind = "puppet"

    def __init__(self):
        super().__init__({"reader": {"kind": "toy"}, "pictures": {}}, {})

    def codec(self, name):
        rng = np.random.default_rng(0)
        return face_code.fit(rng.normal(size=(200, CODE)), 0)

    def speakers(self, streams):
        timed = {k: x for k, x in streams.items() if x.ndim > 2}
        return [{k: x[:, s] for k, x in timed.items()}
                for s in range(next(iter(timed.values())).shape[1])]

    def motion_codes(self, streams):
        return np.asarray(streams["latents"], np.float32).reshape(len(streams["latents"]), -1)

    def frames(self, streams):
        return np.zeros((len(streams["latents"]), 8, 8, 3), np.uint8)

    def waveform(self, streams):
        return np.zeros(256 * len(streams["mel"]), np.float32)


class ToySystem(api.System):
    """`avatar` reacts to its own partner or, `strange`, to nobody; `speech` has another timing."""

    tasks = ("avatar", "speech")
    makes = {"avatar": ("mel", "latents", "voices"), "speech": ("mel",)}

    def __init__(self, strange=False, speakers=SPEAKERS):
        time = ("batch", "time")
        motion = Spec((*time, speakers, WIDTH, 1, 1), "float32", "latents")
        sound = Spec((*time, speakers, 80), "float32", "mel")
        self.strange, self.config = strange, None
        voices = Spec(("batch", speakers, 4), "float32", "voices")
        self.example_spec = {"mel": sound, "latents": motion, "voices": voices}
        self.conditions_spec = self.example_spec | {"lengths": Spec(("batch", 2), "int32",
                                                                    "of mel and latents")}
        self.streams_spec = {"mel": sound, "latents": motion, "voices": voices}

    def conditions(self, example, task):
        return {k: example[k]
                for k in self.example_spec} | {"lengths": [len(example[k])
                                                           for k in ("mel", "latents")]}, 0

    def generate(self, params, conditions, keys, task):
        import jax
        noise = jax.vmap(lambda k: jax.random.normal(k, conditions["latents"].shape[1:]))(keys)
        of_mel, of_latents = conditions["lengths"].T
        lengths = {"mel_length": of_mel if task == "avatar" else of_mel // 2,
                   "latents_length": of_latents}
        latents = noise if self.strange else conditions["latents"] + 0.1 * noise
        made = {"mel": conditions["mel"], "latents": latents, "voices": conditions["voices"]}
        return {k: made[k] for k in self.makes[task]} | lengths


def example(rng, number, speakers=SPEAKERS):
    """Speakers who take turns of a second; everybody else moves as the one who speaks does."""
    frames_mel = round(FRAMES / 25 * mel.FRAME_RATE)
    turn = np.arange(FRAMES) // 25 % speakers
    speaking = turn[:, None] == np.arange(speakers)
    sound = np.where(speaking[np.minimum((np.arange(frames_mel) / mel.FRAME_RATE * 25).astype(int),
                                         FRAMES - 1)], 0.0, -8.0)
    log_mel = sound[:, :, None] + 0.2 * rng.normal(size=(frames_mel, speakers, 80))
    own = np.cumsum(rng.normal(size=(FRAMES, speakers, WIDTH)), 0) / 4
    heard = own[np.arange(FRAMES), turn][:, None]
    motion = np.where(speaking[..., None], own, heard + 0.3
                      * rng.normal(size=own.shape)).astype(np.float32)
    return {"id": f"d{number}", "text": "A: hello\nB: hi",
            "mel": mel.normalise(log_mel).astype(np.float32), "motion": motion,
            "latents": motion[..., None, None],
            "voices": rng.normal(size=(speakers, 4)).astype(np.float32),
            "speakers": json.dumps([f"{number}/{s}" for s in range(speakers)])}


def write(folder, speakers=SPEAKERS, count=6):
    """A feature dataset of such examples."""
    rng = np.random.default_rng(0)
    return write_rows(folder, {split: [example(rng, f"{split}{i}", speakers) for i in range(count)]
                               for split in ("train", "valid")}, speakers)


def write_rows(folder, splits, speakers=SPEAKERS):
    """A feature dataset of {split: examples}."""
    words = Feature((), "str", "")
    features = {"id": words, "text": words, "speakers": words,
                "mel": Feature((None, speakers, 80), "float32", "", "", mel.FRAME_RATE),
                "motion": Feature((None, speakers, WIDTH), "float32", "", "", 25.0),
                "latents": Feature((None, speakers, WIDTH, 1, 1), "float32", "", "", 25.0),
                "voices": Feature((speakers, 4), "float32", "")}
    return store.write_dataset(folder, name="toy", description="", features=features,
                               splits=splits, recipes={"mel": {"kind": "log-mel"}}, progress=False)


def config(**evaluation):
    evaluate = types.SimpleNamespace(seed=0, tasks=(), batch_size=4, **evaluation)
    return types.SimpleNamespace(evaluate=evaluate, data=types.SimpleNamespace(train_split="train"))
