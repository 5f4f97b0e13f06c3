"""Streams -> what a person hears and sees: the way back through the codecs that a dataset's recipes
name.

Every method takes the whole dict of streams and picks what it needs, so its callers know nothing of
the system that made them. Waveforms are at the system's own rate; face, pose and pictures at `fps`:
30 Hz, on the clips' clock, or 25 Hz where the model makes pictures itself.
"""

import functools
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from avjax.codecs import eigenface, latents, motion
from avjax.errors import UserError
from avjax.signal import griffin_lim, mel, resample
from data_pipelines.features.avflow import head_pose
from data_pipelines.features.tavid.decode import DialogueWay, parties
from data_pipelines.media import faces
from data_pipelines.store.schema import CODECS_DIR, RECIPES_FILE

FPS = 30
AT_ONCE = 64  # pictures made at a time
Streams = Mapping[str, np.ndarray]


class Decoder:
    """The codecs of one dataset, or of a workdir that was trained on it.

    Three families of streams, told apart by the recipes:
      mel, face, head (AV-Flow)  at 22050 / 256 Hz; face and head are there together or not at all
      audio, motion (Talker)     at 25 Hz; either may be absent or without frames
      mel, latents (TAVID)       of several parties; all methods but `parties` take those of one (decode_dialogues.py)

    Args:
      recipes: {feature: recipe}; those of the streams say which codec decodes them.
      codecs: {codec: {array name: array}}.
      iterations: Griffin-Lim's.
    """

    def __init__(self, recipes: Mapping[str, dict], codecs: Mapping[str, Mapping[str, np.ndarray]],
                 iterations: int = 32):
        self.recipes, self.codecs, self.iterations = recipes, codecs, iterations
        dialogues = "units" in recipes or "pictures" in recipes
        self._way = (DialogueWay if dialogues else _MelFaceHead if "mel" in recipes
                     else _AudioMotion)(self)

    @classmethod
    def from_dataset(cls, dataset, **kw) -> "Decoder":
        """Of an opened dataset."""
        return cls(dataset.recipes, {name: dataset.codec(name) for name in dataset.codecs}, **kw)

    @classmethod
    def from_workdir(cls, workdir, **kw) -> "Decoder":
        """Of a training job's folder, which keeps its dataset's recipes and codecs. UserError when
        they are not there."""
        workdir = pathlib.Path(workdir)
        path = workdir / RECIPES_FILE
        if not path.is_file():
            raise UserError("not a work folder of a trained system", where=str(workdir),
                            expected=f"a {RECIPES_FILE} in it", found="none",
                            hint="give the --workdir that launch.train wrote")
        codecs = {}
        for file in sorted((workdir / CODECS_DIR).glob("*.npz")):
            with np.load(file, allow_pickle=False) as arrays:
                codecs[file.stem] = dict(arrays)
        return cls(json.loads(path.read_text()), codecs, **kw)

    def parties(self, streams: Streams) -> list[dict]:
        """The streams of each party; of a system of one party those that it makes."""
        return parties(streams)

    # ---- sound

    @property
    def sample_rate(self) -> int:
        """Of `waveform`."""
        return self._way.mel_recipe["sample_rate"]

    def has_audio(self, streams: Streams) -> bool:
        """Whether there is something to hear."""
        return any(len(streams.get(name, ())) > 0 for name in self._way.heard)

    def mel(self, streams: Streams) -> np.ndarray:
        """(T', 80) normalised log-mel."""
        return self._way.mel(streams)

    def waveform(self, streams: Streams) -> np.ndarray:
        """(N,) float32 samples at `sample_rate`, by Griffin-Lim or the dataset's vocoder."""
        return self._way.waveform(streams)

    # ---- face and head

    @property
    def fps(self) -> int:
        """Of faces, poses and pictures."""
        return self._way.fps

    @property
    def face_kind(self) -> str:
        """"puppet" or "eigenface"; another kind, or "", where the motion is no face code."""
        return self._way.face_recipe.get("kind", "")

    def has_motion(self, streams: Streams) -> bool:
        """Whether there is something to see."""
        return any(len(streams.get(name, ())) > 0 for name in self._way.seen)

    @property
    def has_face(self) -> bool:
        """Whether motion is a face code and a pose; if not, `motion_codes` are all that can be had
        of it."""
        return self._way.has_face

    def motion_codes(self, streams: Streams) -> np.ndarray:
        """Motion (T, M) as the model makes it, at its own rate."""
        return self._way.motion_codes(streams)

    def face(self, streams: Streams) -> np.ndarray:
        """Face codes (N, F) at `fps`."""
        return self._way.face(streams)

    def articulators(self, streams: Streams) -> dict[str, np.ndarray]:
        """{articulator: (N,)} of puppets at `fps`, in their own units."""
        from data_pipelines.puppets import face_code

        if self.face_kind != "puppet":
            raise UserError("these faces have no named articulators", where="recipes.json, face",
                            expected="kind puppet",
                            found=self.face_kind, hint="use .frames")
        return face_code.decode(self.face(streams), self.codec("face"))

    def lips(self, streams: Streams) -> tuple[np.ndarray, np.ndarray]:
        """(inner-lip aperture, mouth width) at `fps`, each (N,), in the same units."""
        from data_pipelines.puppets import face_code

        return face_code.lips(self.articulators(streams))

    def pose(self, streams: Streams) -> np.ndarray:
        """(N, 7) at `fps`: unit quaternion wxyz, then translation."""
        stats = self.codec("pose")
        pose = self._way.pose_z(streams) * stats["std"] + stats["mean"]
        norm = np.linalg.norm(pose[:, :4], axis=-1, keepdims=True)
        return np.concatenate([pose[:, :4] / np.maximum(norm, 1e-6), pose[:, 4:]],
                              axis=-1).astype(np.float32)

    @property
    def draws(self) -> bool:
        """Whether `frames` can be had."""
        return self.face_kind in ("puppet", "eigenface") or "latents" in self.recipes

    def frames(self, streams: Streams, *, speaker: str = "", identity=None) -> np.ndarray:
        """All of `pictures` at once, (N, H, W, 3) uint8."""
        return self._painter(streams, speaker, identity)[1](slice(None))

    def pictures(self, streams: Streams, *, speaker: str = "",
                 identity=None) -> tuple[int, Iterator[np.ndarray]]:
        """How many pictures there are, at `fps`, and each (H, W, 3) uint8, drawn when it is asked
        for: an hour of 256 x 256 is 21 GB. Decoded where the streams are of pictures; else puppets
          are drawn by `identity`, eigenfaces are decoded by
        `speaker` and moved as the head is. UserError where nothing here can draw."""
        count, draw = self._painter(streams, speaker, identity)
        parts = (draw(slice(first, first + AT_ONCE)) for first in range(0, count, AT_ONCE))
        return count, itertools.chain.from_iterable(parts)

    def _painter(self, streams, speaker, identity):
        """(pictures, function of a slice of them)."""
        if self._way.has_pictures(streams):
            return len(streams["latents"]), lambda part: self._way.frames({"latents":
                                                                           streams["latents"][
                                                                               part]})
        if self.face_kind == "puppet":
            from data_pipelines.puppets import render

            articulators, pose_N7 = self.articulators(streams), self.pose(streams)
            identity = np.asarray(identity, np.float32)
            return min(len(pose_N7), *map(len, articulators.values())), lambda part: render.render(
                {name: x[part] for name, x in articulators.items()}, pose_N7[part], identity,
                **self._way.drawing)
        if self.face_kind != "eigenface":
            raise UserError("nothing here can draw this motion", where="recipes.json, motion",
                            expected="puppet or eigenface", found=self.face_kind
                            or self.recipes.get("motion", {}).get("kind", "none"),
                            hint="render it with the codec that made it")
        codec = eigenface.unpack(self.codec("face"), speaker)
        codes_NK, pose_N7 = self.face(streams), self.pose(streams)
        return len(codes_NK), lambda part: faces.compose(codec.decode(codes_NK[part]),
                                                         pose_N7[part])

    def codec(self, name: str) -> Mapping[str, np.ndarray]:
        """The arrays of one codec. UserError when they are missing."""
        if name not in self.codecs:
            raise UserError("codec missing", where=f"{CODECS_DIR}/{name}.npz",
                            expected="the arrays fitted with the data", found=", ".join(self.codecs)
                            or "none", hint="extract the features again")
        return self.codecs[name]


class _Way:
    """What the ways of one party share."""

    fps = FPS
    drawing: Mapping[str, float] = {}  # how puppets are framed, other than render's defaults

    def has_pictures(self, streams) -> bool:
        """Whether the streams are of pictures rather than of what moves them."""
        return False

    def motion_codes(self, streams):
        return np.asarray(streams[self.seen[0]], np.float32)


class _MelFaceHead(_Way):
    """AV-Flow's streams."""

    heard, seen = ("mel",), ("face",)  # the streams that tell whether there is sound and picture
    has_face = True
    mel_recipe = mel.RECIPE

    def __init__(self, decoder: Decoder):
        self._decoder = decoder
        self.face_recipe = decoder.recipes.get("face", {})

    def mel(self, streams):
        return np.asarray(streams["mel"], np.float32)

    def waveform(self, streams):
        return griffin_lim.waveform(self.mel(streams), iterations=self._decoder.iterations,
                                    normalised=True)

    def face(self, streams):
        return self._at_30hz("face", streams["face"])

    def pose_z(self, streams):
        return head_pose.decode(self._decoder.recipes["head"], self._decoder.codecs.get("head", {}),
                                self._at_30hz("head", streams["head"]))

    def _at_30hz(self, name, x_TC):
        """Back to the clips' clock, by the way the features were put on theirs."""
        mode = self._decoder.recipes[name].get("resample", resample.MODES[0])
        return resample.from_features(np.asarray(x_TC, np.float32), FPS, mode=mode)


class _AudioMotion(_Way):
    """Talker's streams."""

    heard, seen = ("audio",), ("motion",)
    mel_recipe = latents.MEL

    def __init__(self, decoder: Decoder):
        self._decoder = decoder
        self.has_face = decoder.recipes.get("motion", {}).get("kind") == motion.KIND
        self.face_recipe = decoder.recipes.get("motion", {}).get("face", {})

    @functools.cached_property
    def _audio_codec(self) -> latents.AudioCodec:
        return latents.from_recipe(self._decoder.recipes.get("audio", {}),
                                   self._decoder.codec("audio"))

    @functools.cached_property
    def _motion_codec(self) -> motion.MotionCodec:
        return motion.from_recipe(self._decoder.recipes["motion"], self._decoder.codec("motion"))

    def mel(self, streams):
        return self._audio_codec.mel(streams["audio"])

    def waveform(self, streams):
        return self._audio_codec.waveform(streams["audio"], iterations=self._decoder.iterations)

    def face(self, streams):
        return self._at_30hz(self._motion_codec.face_and_pose(streams["motion"])[0])

    def pose_z(self, streams):
        return self._at_30hz(self._motion_codec.face_and_pose(streams["motion"])[1])

    @staticmethod
    def _at_30hz(x_TC):
        return resample.convert(x_TC, motion.RATE, FPS,
                                max(1, round(len(x_TC) / motion.RATE * FPS)))
