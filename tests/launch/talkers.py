"""A System and a decoder whose dialogues tell what went in: so many frames of every token, latents
that count on, a tone, pictures as bright as the latents say."""

import jax
import jax.numpy as jnp
import numpy as np

from avjax.systems import api
from avjax.systems.api import Spec
from avjax.systems.tavid import streaming
from data_pipelines import decode

FRAMES = 3  # of 25 Hz that the System makes of a token
LATENTS = (2, 2, 4)


class Talkers(api.System):
    """A System: latents count on from those it is given, units repeat the tokens."""

    tasks, makes = ("dialogue", "avatar"), {"dialogue": ("units", "mel", "latents"),
                                            "avatar": ("mel", "latents")}
    example_spec = {}
    context, speakers = 3000, 2

    def __init__(self, config):
        self.config, S = config, self.speakers
        length = Spec(("batch",), "int32", "")
        self.conditions_spec = {
            "tokens": Spec(("batch", "tokens"), "int32", ""), "tokens_length": length,
            "token_speaker": Spec(("batch", "tokens"), "int32", ""), "said_tokens": length,
            "room": Spec(("batch", "time"), "int32", ""),
            "units": Spec(("batch", "units", S), "int32", ""), "units_length": length,
            "faces": Spec(("batch", S, 16), "float32", ""),
            "portraits": Spec(("batch", S, 64, 64, 3), "uint8", ""),
            "reference": Spec(("batch", S, *LATENTS), "float32", ""),
            "has_first": Spec(("batch",), "float32", ""),
            "first_motion": Spec(("batch", S, 2, *LATENTS), "float32", "")}
        self.streams_spec = {
            "units": Spec(("batch", "time", S), "int32", ""),
            "mel": Spec(("batch", "time", S, 80), "float32", ""),
            "latents": Spec(("batch", "time", S, *LATENTS), "float32", ""),
            **{f"{n}_length": length for n in ("units", "mel", "latents")}}

    def generate(self, params, conditions, keys, task=""):
        room = conditions["room"].shape[1]
        said = conditions["said_tokens"]
        units = (jnp.minimum((conditions["tokens_length"] - said) * 2 * FRAMES, room)
                 if task == "dialogue" else conditions["units_length"])
        count = jnp.arange(room // 2)[None, :, None, None, None,
                                      None] + params + conditions["reference"][:, None]
        after = jnp.where(conditions["has_first"] > 0,
                          conditions["first_motion"][:, :, -1, :1, :1, :1].mean() + 1, 0.0)
        tokens = conditions["tokens"][:, jnp.minimum(said[0] + jnp.arange(room) // (2 * FRAMES),
                                                     conditions["tokens"].shape[1] - 1)]
        mel = jnp.broadcast_to(conditions["faces"][:, None, :, :1],
                               (1, 441 * room // 256, self.speakers, 80))
        return {"units": jnp.stack([tokens] * self.speakers, -1), "units_length": units, "mel": mel,
                "mel_length": 441 * units // 256,
                "latents": count + after, "latents_length": units // 2}

    def steps(self, task):
        """Two of them."""
        def steps(params, conditions, keys):
            out = jax.device_get(self.generate(params, conditions, keys, task))
            made = {n: out[n][:, :int(out[f"{n}_length"][0])] for n in self.makes[task]}
            seconds = float(out["units_length"][0]) / 50
            latents = made.pop("latents")
            sound = {n: out[f"{n}_length"] for n in ("units", "mel")}
            yield api.Chunk(made | {f"{n}_length": x for n, x in sound.items()}
                            | {"latents": latents[:, :1]}, seconds / 2)
            yield api.Chunk({"latents": latents[:, 1:]}, seconds)
        return steps

    def can_stream(self, task):
        return True

    def stream(self, params, prompts, keys, task):
        return streaming.stream(self, params, prompts, keys, task)

    def conditions(self, example, task=""):
        names = ("units", "faces", "portraits", "reference")
        units = len(example["units"])
        return ({n: example[n] for n in names}
                | {"units_length": np.int32(units), "room": np.zeros(units, np.int32)}, units)


class Codecs(decode.Decoder):
    """A decoder whose sound is a tone and whose pictures are as bright as the latents say."""

    fps, sample_rate = 25, 22050

    def has_audio(self, streams):
        return len(streams["mel"]) > 0

    def has_motion(self, streams):
        return len(streams["latents"]) > 0

    def waveform(self, streams):
        return np.sin(np.arange(len(streams["mel"]) * 256) / 10).astype(np.float32)

    def pictures(self, streams):
        shown = np.clip(streams["latents"].mean((1, 2, 3)), 0, 255).astype(np.uint8)
        return len(shown), iter(np.broadcast_to(shown[:, None, None, None],
                                                (len(shown), 32, 32, 3)))
