"""A small corpus, decoder and system whose right answers are known."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np

from avjax.encoders.text import symbols
from avjax.signal import resample
from avjax.systems import api
from avjax.systems.api import Spec
from configs import base
from data_pipelines import decode
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import FAMILY, Feature
from eval.benchmarks import text_tokens
from eval.benchmarks.puppets import Benchmark
from eval.run import runner

RATE = 22050 / 256
MEL, FACE, HEAD, TOKENS = 80, 3, 7, 90
WORDS = ("one two three", "four five six", "seven eight nine", "ten one four", "two five eight",
         "three six nine")


def streams(rng, frames: int) -> dict[str, np.ndarray]:
    """Smooth random mel, face and head; face code 0 is the lip aperture and closes now and then."""
    time = np.arange(frames)[:, None] / RATE

    def waves(width, hertz):
        return np.sin(2 * np.pi * (hertz * rng.uniform(0.5, 1.5, width) * time
                                   + rng.uniform(size=width)))
    face = waves(FACE, 3.0)
    face[:, 0] = np.maximum(face[:, 0], 0)
    out = {"mel": waves(MEL, 4.0) + rng.normal(size=MEL), "face": face, "head": waves(HEAD, 1.5)}
    return {k: v.astype(np.float32) for k, v in out.items()}


def write_corpus(folder, *, seed: int = 0, mel_recipe: dict | None = None):
    """A feature dataset: `tokens` are the targets themselves, so that a perfect system is
    linear."""
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
                "text": Feature((), "str", "words"),
                "identity": Feature((8,), "float32", "identity"), "tokens": sequence(TOKENS),
                "mel": sequence(MEL), "face": sequence(FACE), "head": sequence(HEAD)}
    return store.write_dataset(
        folder, name="toy", description="toy", features=features, progress=False,
        splits={"train": examples("train", 6), "valid": examples("valid", 6),
                "other": examples("other", 2)},
        recipes={"mel": mel_recipe or {"kind": "toy"}, "tokens": {}, "face": {}, "head": {}},
        codecs={"pose": {"mean": np.zeros(7), "std": np.ones(7)}})


class StreamDecoder(decode.StreamDecoder):
    """Sound whose loudness follows mel band 0. Streams are the single-task toy's (mel, face, head
    at the mel rate) or the multi-task toy's (audio, motion at 25 Hz)."""

    heard, seen, has_face, paints = ("mel", "audio"), ("face", "motion"), True, True

    def mel(self, streams):
        return streams["mel"] if "mel" in streams else np.repeat(streams["audio"], 4, axis=0)

    def waveform(self, streams):
        hop = 256 if "mel" in streams else 240
        mel_TM = self.mel(streams)
        carrier = np.sin(np.arange(len(mel_TM) * hop) * 0.3)
        return (0.3 * carrier * np.repeat(np.clip(mel_TM[:, 0] + 1, 0, 2) / 2,
                                          hop)).astype(np.float32)

    def face(self, streams):
        if "face" in streams:
            return resample.from_features(np.asarray(streams["face"], np.float64), 30.0)
        return at_30hz(streams["motion"])[:, :FACE]

    def pose_z(self, streams):
        if "head" in streams:
            return resample.from_features(np.asarray(streams["head"]), 30.0)
        return at_30hz(streams["motion"])[:, FACE:]

    def painter(self, streams):
        shade = np.clip(self.face(streams)[:, 0] * 255, 0, 255).astype(np.uint8)
        frames = np.broadcast_to(shade[:, None, None, None], (len(shade), 32, 32, 3))
        return len(frames), lambda part: frames[part].copy()


class Decoder(decode.Decoder):
    """The real one, with the toys' streams: lips = face code 0, pose = head."""

    def __init__(self, sample_rate: int = 22050):
        super().__init__({}, {})
        self._family = StreamDecoder(self)
        self._family.mel_recipe = {"sample_rate": sample_rate}

    def lips(self, streams):
        face_NF = self.face(streams)
        return face_NF[:, 0], np.ones(len(face_NF))

    def smile(self, streams):
        return self.face(streams)[:, 1]

    def pose(self, streams):
        return self._family.pose_z(streams)


def at_30hz(x_TC):
    """Frames at k / 25 s, held at the end."""
    return resample.interpolate(np.asarray(x_TC, np.float64),
                                np.arange(round(len(x_TC) * 30 / 25)) * 25 / 30)


class System(api.System):
    """streams = tokens @ W + noise * params["noise"] + params["context"] * mean over the real
    frames."""

    param_rules = ((r".*", ()),)
    tasks, makes, rows = ("generate",), {"generate": ("mel", "face", "head")}, None
    config = types.SimpleNamespace(to_dict=lambda: {"name": "toy"})

    def __init__(self, mel_recipe=None):
        def sequence(width, recipe=None):
            return Spec(("batch", "time", width), "float32", "toy", rate=RATE, recipe=recipe)
        self.streams_spec = {"mel": sequence(MEL, mel_recipe), "face": sequence(FACE),
                             "head": sequence(HEAD)}
        self.conditions_spec = {"tokens": sequence(TOKENS),
                                "mask": Spec(("batch", "time"), "float32", "real frames")}
        self.batch_spec = self.streams_spec | self.conditions_spec
        self.example_spec = {n: s for n, s in self.batch_spec.items() if n != "mask"}

    def init(self, key):
        del key
        return {"w": jnp.eye(TOKENS), "noise": jnp.zeros(()), "context": jnp.zeros(())}

    def conditions(self, example, task):
        return {"tokens": example["tokens"]}, len(example["tokens"])

    def generate(self, params, conditions, keys, task=""):
        tokens, mask = conditions["tokens"], conditions["mask"][..., None]
        noise = jax.vmap(lambda key: jax.random.normal(key, tokens.shape[1:]))(keys)
        context = (tokens * mask).sum(1, keepdims=True) / mask.sum(1, keepdims=True)
        out = tokens @ params["w"] + params["noise"] * noise + params["context"] * context
        return {"mel": out[..., :MEL], "face": out[..., MEL:MEL + FACE],
                "head": out[..., MEL + FACE:]}


def config(**evaluate):
    c = base.get_config()
    c.evaluate.benchmark = "puppets"
    c.evaluate.update(evaluate)
    return c


def benchmark(dataset, *, full: bool = True, **evaluate) -> Benchmark:
    return Benchmark(config(**evaluate), Decoder(), dataset, System(), full=full)


# ---- a system with several tasks that decides lengths itself

AUDIO, MOTION = 8, FACE + HEAD


def write_tasks_corpus(folder, *, seed: int = 0):
    """Examples of audio and motion at 25 Hz with prompts of any length. Lips and sound follow one
    random course, so that lips fit the sound they belong to and no other."""
    rng = np.random.default_rng(seed)

    def examples(split, count):
        for i in range(count):
            frames = int(rng.integers(50, 90))
            time = np.arange(frames) / 25
            audio = np.sin(2 * np.pi
                           * (rng.uniform(0.5, 3, AUDIO) * time[:, None] + rng.uniform(size=AUDIO)))
            motion = np.concatenate([np.maximum(audio[:, :1], 0), audio[:, 1:3],
                                     np.sin(rng.uniform(1, 9, HEAD) * time[:, None])], 1)
            yield {"id": f"{split}/{i}", "speaker": f"s{i % 2}", "text": WORDS[i % len(WORDS)],
                   "identity": np.zeros(8, np.float32),
                   "tokens": rng.integers(1, 9, 3 + 30 * i).astype(np.int32),
                   "audio": audio.astype(np.float32), "motion": motion.astype(np.float32)}

    features = {"id": Feature((), "str", "id"), "speaker": Feature((), "str", "who"),
                "text": Feature((), "str", "words"),
                "identity": Feature((8,), "float32", "identity"),
                "tokens": Feature((None,), "int32", "prompt"),
                "audio": Feature((None, AUDIO), "float32", "toy", rate=25.0),
                "motion": Feature((None, MOTION), "float32", "toy", rate=25.0)}
    return store.write_dataset(
        folder, name="tasks", description="toy", features=features, progress=False, recipes={},
        splits={"train": examples("train", 6), "valid": examples("valid", 4)},
        codecs={"pose": {"mean": np.zeros(7), "std": np.ones(7)}})


class TasksSystem(api.System):
    """Gives the truth back at params["pace"] times its duration where the task leaves the length
    open, with noise that also shows whether keys and prompt lengths are kept apart: audio +=
    params["noise"] * (normal + mean of the prompt)."""

    tasks, rows = ("both", "voice", "face", "dub"), None
    makes = {"both": ("audio", "motion"), "voice": ("audio",), "face": ("motion",), "dub": ("audio",
             )}
    config = types.SimpleNamespace(to_dict=lambda: {"name": "tasks"})

    def __init__(self, audio: int = AUDIO, motion: int = MOTION):
        self.streams_spec = {"audio": Spec(("batch", "time", audio), "float32", "toy", rate=25.0),
                             "motion": Spec(("batch", "time", motion), "float32", "toy", rate=25.0),
                             "audio_length": Spec(("batch",), "int32", "frames"),
                             "stop": Spec(("batch", "patches"), "float32", "logits")}
        self.example_spec = {"tokens": Spec(("batch", "tokens"), "int32", "prompt"),
                             "audio": self.streams_spec["audio"],
                             "motion": self.streams_spec["motion"]}
        self.conditions_spec = {"prompt": Spec(("batch", "tokens"), "int32", "prompt"),
                                "prompt_length": Spec(("batch",), "int32", "ids"),
                                "audio": self.streams_spec["audio"],
                                "motion": self.streams_spec["motion"],
                                "length": Spec(("batch",), "int32", "frames")}
        self.traces = []

    def init(self, key):
        del key
        return {"pace": jnp.float32(1), "noise": jnp.float32(0)}

    def conditions(self, example, task):
        n = len(example["audio"])
        out = {"prompt": example["tokens"], "prompt_length": len(example["tokens"]),
               "audio": example["audio"],
               "motion": example["motion"], "length": n}
        return out, n if task in ("face", "dub") else 2 * n

    def generate(self, params, conditions, keys, task=""):
        shape = conditions["audio"].shape
        self.traces.append((task, shape[1], conditions["prompt"].shape[1]))
        pace = params["pace"] if task in ("both", "voice") else 1.0
        length = jnp.round(conditions["length"] * pace).astype(jnp.int32)
        at = jnp.minimum((jnp.arange(shape[1]) / pace).astype(jnp.int32), shape[1] - 1)
        ids = jnp.arange(conditions["prompt"].shape[1]) < conditions["prompt_length"][:, None]
        mean = (conditions["prompt"] * ids).sum(1) / conditions["prompt_length"]
        noise = jax.vmap(lambda key: jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key,
                                                                                             i),
                                                                          shape[2:]))(
            jnp.arange(shape[1])))(keys)
        made = conditions["audio"][:, at] + params["noise"] * (noise + mean[:, None, None])
        out = {"audio": conditions["audio"] if task == "face" else made, "audio_length": length,
               "stop": jnp.zeros((shape[0], 3))}
        if task != "voice":
            out |= {"motion": conditions["motion"][:, at], "motion_length": length}
        return out


def tasks_benchmark(dataset, *, full: bool = True, **evaluate):
    from eval.benchmarks import talker_puppets

    class Tasks(talker_puppets.Benchmark):
        name, has_words = "tasks", False

    return Tasks(config(**evaluate), Decoder(24000), dataset, TasksSystem(), full=full)


def write_codes_corpus(folder, *, seed: int = 0):
    """Talker features of noise in bursts, whose motion is a code of another's making (kind
    "lia-x"); one held-out example has no motion."""
    from data_pipelines.features.talker import extract as talker

    rng = np.random.default_rng(seed)

    def examples(split, count):
        for i in range(count):
            frames = int(rng.integers(50, 70))
            swing = np.sin(0.4 * np.arange(frames) + i)
            motion = (swing[:, None] * rng.uniform(1, 2,
                                                   40) + rng.standard_normal(40)).astype(np.float32)
            loud = np.repeat(np.abs(swing) > 0.7, 960) + 0.01
            yield {"id": f"{split}/{i}", "speaker": "many", "text": WORDS[i],
                   "motion": motion[:frames * (i < 4)],
                   "audio": (5000 * rng.standard_normal(len(loud)) * loud).astype(np.int16)}

    features = {"id": Feature((), "str", "id"), "speaker": Feature((), "str", "who"),
                "text": Feature((), "str", "words"),
                "audio": Feature((None,), "int16", "sound", "1/32768", 24000.0),
                "motion": Feature((None, 40), "float32", "code", rate=25.0)}
    clips = store.write_dataset(
        folder / "clips", name="codes", description="toy", features=features, progress=False,
        recipes={"motion": {"kind": "lia-x"}},
        codecs={"motion": {"mean": np.ones(40), "std": np.full(40, 2.0)}},
        splits={"train": examples("train", 4), "valid": examples("valid", 5)})
    return talker.extract(clips.dir, folder / "features", progress=False)


def evaluate(benchmark, generator, params, out_dir, *, meta=None, progress=True, made=None, **run):
    """Scores all variants and returns the content of results.json; `run`: see runner.Run."""
    job = runner.Run(benchmark, generator, params, out_dir, **run)
    job.score(progress=progress, made=made)
    return job.results(meta)


def text_benchmark(folder) -> text_tokens.Benchmark:
    """Of texts whose CTC tokens spell them, and whose phonemes are known."""
    letters = np.eye(29, dtype=np.float32)[[8, 2, 12, 0, 12, 5] * 4]  # HELLO, as CTC
    timed = json.dumps([["_", 0.0, 0.1], ["h", 0.1, 0.2], ["i", 0.2, 0.28]])
    rows = [{"id": f"{split}/{i}", "text": "hello " * 4, "tokens": letters, "phonemes": timed,
             "symbols": symbols.ids_of("hi")} for split in ("train", "valid") for i in (0, 1)]
    features = {"id": Feature((), "str", "id"), "text": Feature((), "str", "words"),
                "phonemes": Feature((), "str", "times"),
                "symbols": Feature((None,), "int32", "symbols"),
                "tokens": Feature((None, 29), "float32", "CTC", rate=RATE)}
    dataset = store.write_dataset(
        folder, name="toy", description="toy", features=features, progress=False,
        recipes={"tokens": {"kind": "wav2vec2-ctc"}, FAMILY: {"kind": "text_tokens"}},
        splits={s: [r for r in rows if r["id"].startswith(s)] for s in ("train", "valid")})
    return text_tokens.Benchmark(config(), decode.Decoder.from_dataset(dataset), dataset,
                                 types.SimpleNamespace(tasks=("generate",)))
