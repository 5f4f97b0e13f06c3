"""A small corpus, decoder and system whose right answers are known."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from avjax.systems.api import Spec
from configs import base
from data_pipelines import resample, store
from data_pipelines.schema import Feature
from eval.benchmarks.puppets import Benchmark

RATE = 22050 / 256
MEL, FACE, HEAD, TOKENS = 80, 3, 7, 90
WORDS = ("one two three", "four five six", "seven eight nine", "ten one four", "two five eight", "three six nine")


def streams(rng, frames: int) -> dict[str, np.ndarray]:
    """Smooth random mel, face and head; face code 0 is the lip aperture and closes now and then."""
    time = np.arange(frames)[:, None] / RATE

    def waves(width, hertz):
        return np.sin(2 * np.pi * (hertz * rng.uniform(0.5, 1.5, width) * time + rng.uniform(size=width)))
    face = waves(FACE, 3.0)
    face[:, 0] = np.maximum(face[:, 0], 0)
    out = {"mel": waves(MEL, 4.0) + rng.normal(size=MEL), "face": face, "head": waves(HEAD, 1.5)}
    return {k: v.astype(np.float32) for k, v in out.items()}


def write_corpus(folder, *, seed: int = 0, mel_recipe: dict | None = None):
    """A feature dataset: `tokens` are the targets themselves, so that a perfect system is linear."""
    rng = np.random.default_rng(seed)

    def examples(split, count):
        for i in range(count):
            s = streams(rng, int(rng.integers(70, 190)))
            tokens = np.concatenate([s["mel"], s["face"], s["head"]], axis=1)
            yield {"id": f"{split}/{i}", "speaker": f"s{i % 2}", "text": WORDS[i % len(WORDS)],
                   "identity": np.zeros(8, np.float32), "tokens": tokens, **s}

    def sequence(width):
        return Feature((None, width), "float32", "toy", rate=RATE)

    features = {"id": Feature((), "str", "id"), "speaker": Feature((), "str", "who"),
                "text": Feature((), "str", "words"), "identity": Feature((8,), "float32", "identity"),
                "tokens": sequence(TOKENS), "mel": sequence(MEL), "face": sequence(FACE), "head": sequence(HEAD)}
    return store.write_dataset(
        folder, name="toy", description="toy", features=features, progress=False,
        splits={"train": examples("train", 6), "valid": examples("valid", 6), "other": examples("other", 2)},
        recipes={"mel": mel_recipe or {"kind": "toy"}, "tokens": {}, "face": {}, "head": {}},
        codecs={"pose": {"mean": np.zeros(7), "std": np.ones(7)}})


class Decoder:
    """Sound whose loudness follows mel band 0; lips = face code 0; pose = head."""

    def waveform(self, mel_TM):
        carrier = np.sin(np.arange(len(mel_TM) * 256) * 0.3)
        return (0.3 * carrier * np.repeat(np.clip(mel_TM[:, 0] + 1, 0, 2) / 2, 256)).astype(np.float32)

    def lips(self, face_TF):
        face_NF = resample.from_features(np.asarray(face_TF), 30.0)
        return face_NF[:, 0], np.ones(len(face_NF))

    def pose(self, head_TH):
        return resample.from_features(np.asarray(head_TH), 30.0)

    def frames(self, face_TF, head_TH, *, speaker="", identity=None):
        shade = np.clip(self.lips(face_TF)[0] * 255, 0, 255).astype(np.uint8)
        return np.broadcast_to(shade[:, None, None, None], (len(shade), 32, 32, 3)).copy()


class System:
    """streams = tokens @ W + noise * params["noise"] + params["context"] * mean over the real frames."""

    param_rules = ((r".*", ()),)
    config = types.SimpleNamespace(to_dict=lambda: {"name": "toy"})

    def __init__(self, mel_recipe=None):
        def sequence(width, recipe=None):
            return Spec(("batch", "time", width), "float32", "toy", rate=RATE, recipe=recipe)
        self.streams_spec = {"mel": sequence(MEL, mel_recipe), "face": sequence(FACE), "head": sequence(HEAD)}
        self.conditions_spec = {"tokens": sequence(TOKENS), "mask": Spec(("batch", "time"), "float32", "real frames")}
        self.batch_spec = self.streams_spec | self.conditions_spec

    def init(self, key):
        del key
        return {"w": jnp.eye(TOKENS), "noise": jnp.zeros(()), "context": jnp.zeros(())}

    def generate(self, params, conditions, keys):
        tokens, mask = conditions["tokens"], conditions["mask"][..., None]
        noise = jax.vmap(lambda key: jax.random.normal(key, tokens.shape[1:]))(keys)
        context = (tokens * mask).sum(1, keepdims=True) / mask.sum(1, keepdims=True)
        out = tokens @ params["w"] + params["noise"] * noise + params["context"] * context
        return {"mel": out[..., :MEL], "face": out[..., MEL:MEL + FACE], "head": out[..., MEL + FACE:]}


def config(**evaluate):
    c = base.get_config()
    c.evaluate.benchmark = "puppets"
    c.evaluate.update(evaluate)
    return c


def benchmark(dataset, *, full: bool = True, **evaluate) -> Benchmark:
    return Benchmark(config(**evaluate), Decoder(), dataset, full=full)
