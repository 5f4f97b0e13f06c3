"""Streams -> what a person hears and sees: the way back through the codecs that a dataset's recipes name.

Waveforms are at 22050 Hz; face, pose and pictures at 30 Hz, on the clips' clock.
"""

import json
import pathlib
from collections.abc import Mapping

import numpy as np

from avjax.codecs import eigenface, griffin_lim, mel
from avjax.errors import UserError
from data_pipelines import faces, head_latents, resample
from data_pipelines.schema import CODECS_DIR, RECIPES_FILE

FPS = 30
SAMPLE_RATE = mel.RECIPE["sample_rate"]


class Decoder:
    """The codecs of one dataset, or of a workdir that was trained on it.

    Args:
      recipes: {feature: recipe}; "face" and "head" say which codec decodes them.
      codecs: {codec: {array name: array}}; "face", "pose" and, with a head VAE, "head" are used.
      iterations: Griffin-Lim's.
    """

    def __init__(self, recipes: Mapping[str, dict], codecs: Mapping[str, Mapping[str, np.ndarray]], iterations: int = 32):
        self.recipes, self.codecs, self.iterations = recipes, codecs, iterations

    @classmethod
    def from_dataset(cls, dataset, **kw) -> "Decoder":
        """Of an opened dataset."""
        return cls(dataset.recipes, {name: dataset.codec(name) for name in dataset.codecs}, **kw)

    @classmethod
    def from_workdir(cls, workdir, **kw) -> "Decoder":
        """Of a training job's folder, which keeps its dataset's recipes and codecs. UserError when they are not there."""
        workdir = pathlib.Path(workdir)
        path = workdir / RECIPES_FILE
        if not path.is_file():
            raise UserError("not a work folder of a trained system", where=str(workdir), expected=f"a {RECIPES_FILE} in it",
                            found="none", way_out="give the --workdir that launch.train wrote")
        codecs = {}
        for file in sorted((workdir / CODECS_DIR).glob("*.npz")):
            with np.load(file, allow_pickle=False) as arrays:
                codecs[file.stem] = dict(arrays)
        return cls(json.loads(path.read_text()), codecs, **kw)

    @property
    def face_kind(self) -> str:
        """"puppet" or "eigenface"."""
        return self.recipes["face"]["kind"]

    def waveform(self, mel_TM: np.ndarray) -> np.ndarray:
        """Normalised mel (T, 80) -> float32 samples (T * 256,) at 22050 Hz, by Griffin-Lim."""
        return griffin_lim.waveform(mel.denormalise(np.asarray(mel_TM, np.float32)), iterations=self.iterations)

    def articulators(self, face_TF: np.ndarray) -> dict[str, np.ndarray]:
        """Puppets' face codes (T, F) at the feature rate -> {articulator: (N,)} at 30 Hz, in the puppets' own units."""
        from data_pipelines.puppets import face_code

        if self.face_kind != "puppet":
            raise UserError("these faces have no named articulators", where="recipes.json, face", expected="kind puppet",
                            found=self.face_kind, way_out="use .frames")
        face_NF = self._at_30hz("face", face_TF)
        return face_code.decode(face_NF, self._codec("face"))

    def lips(self, face_TF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(inner-lip aperture, mouth width) at 30 Hz, each (N,), in the same units."""
        from data_pipelines.puppets import face_code

        return face_code.lips(self.articulators(face_TF))

    def pose(self, head_TH: np.ndarray) -> np.ndarray:
        """Head stream (T, H) -> (N, 7) at 30 Hz: unit quaternion wxyz, then translation."""
        latent_NH = self._at_30hz("head", head_TH)
        pose_z = head_latents.decode(self.recipes["head"], self.codecs.get("head", {}), latent_NH)
        stats = self._codec("pose")
        pose = pose_z * stats["std"] + stats["mean"]
        norm = np.linalg.norm(pose[:, :4], axis=-1, keepdims=True)
        return np.concatenate([pose[:, :4] / np.maximum(norm, 1e-6), pose[:, 4:]], axis=-1).astype(np.float32)

    def frames(self, face_TF: np.ndarray, head_TH: np.ndarray, *, speaker: str = "", identity=None) -> np.ndarray:
        """Pictures (N, H, W, 3) uint8 at 30 Hz. Puppets are drawn by `identity`; eigenfaces are
        decoded by `speaker` and moved as the head is."""
        if self.face_kind == "puppet":
            from data_pipelines.puppets import render

            return render.render(self.articulators(face_TF), self.pose(head_TH), np.asarray(identity, np.float32))
        codec = eigenface.unpack(self._codec("face"), speaker)
        return faces.compose(codec.decode(self._at_30hz("face", face_TF)), self.pose(head_TH))

    def _at_30hz(self, name: str, x_TC: np.ndarray) -> np.ndarray:
        """Back to the clips' clock, by the way the features were put on theirs."""
        mode = self.recipes[name].get("resample", resample.MODES[0])
        return resample.from_features(np.asarray(x_TC, np.float32), FPS, mode=mode)

    def _codec(self, name: str) -> Mapping[str, np.ndarray]:
        if name not in self.codecs:
            raise UserError("codec missing", where=f"{CODECS_DIR}/{name}.npz", expected="the arrays fitted with the data",
                            found=", ".join(self.codecs) or "none", way_out="extract the features again")
        return self.codecs[name]
