"""Semantic units: every 50th of a second of speech as the number of its nearest centroid.

`published` takes XLS-R or HuBERT with their centroids, `fit` makes centroids for any frames
(speech_frames.py). TAVID: "layer 35" of XLS-R with 10 000 units; its layer and window rules are
those of specification 1.2.
Suffixes: T frames, K units, D width of a frame.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jax.sharding import Mesh

from avjax.encoders.speech_frames import MelFrames, SpeechFrames, Wav2Vec2Frames
from avjax.encoders.wav2vec2 import Wav2Vec2Config
from avjax.encoders.windows import SAMPLE_RATE
from avjax.errors import UserError
from avjax.signal import kmeans, kmeans_stream, rates

RATE = rates.UNITS
CENTROIDS = "centroids"
KINDS = {"mel": "mel-kmeans", "wav2vec2": "wav2vec2"}  # of units, by the kind of frames


@dataclasses.dataclass(frozen=True)
class UnitEncoder:
    """Audio at 16 kHz -> units at 50 Hz."""

    frames: SpeechFrames
    centroids_KD: np.ndarray

    @property
    def num_units(self) -> int:
        return len(self.centroids_KD)

    @property
    def recipe(self) -> dict:
        """Everything that a unit depends on, without the centroids (the dataset adds their
        hash)."""
        return {"kind": KINDS[self.frames.recipe["kind"]], "rate": RATE, "sample_rate": SAMPLE_RATE,
                "units": self.num_units,
                "frames": self.frames.recipe}

    def arrays(self) -> dict[str, np.ndarray]:
        """As a dataset keeps them: `centroids` (K, D) float32."""
        return {CENTROIDS: self.centroids_KD}

    def __call__(self, audio: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Whole utterances (n_i,), float32 at 16 kHz -> units (T_i,) int32 in [0, num_units).

        T_i is about n_i / 320; see `fit_length`. An utterance's units do not depend on the others
        given with it, but, as it is normalised as a whole, on its own extent: encode whole
        channels, then cut. UserError: shorter than a frame.
        """
        return self.frames(audio, self.centroids_KD)


def fit_length(units_T: np.ndarray, frames: int) -> np.ndarray:
    """(frames,): cut, or the last unit repeated. An encoder gives a frame or two less than 50 a
    second."""
    return units_T[np.minimum(np.arange(frames), len(units_T) - 1)]


def fit(frames: SpeechFrames, audio: Callable[[], Iterable[Sequence[np.ndarray]]], num_units: int,
        *, seed: int = 0, passes: int = 3, mesh: Mesh | None = None,
        report: Callable[[str], None] = lambda line: None) -> UnitEncoder:
    """Units fitted on speech by k-means in a stream (kmeans_stream.fit, which also lists the
    errors).

    audio: gives a fresh iterator over the same lists of utterances whenever it is called, 1 +
      `passes` times at most.
    """
    def blocks():
        return (np.concatenate(frames(utterances)) for utterances in audio() if len(utterances))

    return UnitEncoder(frames, kmeans_stream.fit(blocks, num_units, seed=seed, passes=passes,
                                                 mesh=mesh, report=report))


def published(weights: str, centroids: str, *, layer: int = 35, normalise: bool | None = None,
              num_heads: int | None = None,
              mesh: Mesh | None = None) -> UnitEncoder:
    """A published network and its centroids (`.npy`); see Wav2Vec2Frames.from_checkpoint.
    UserError: of another width."""
    frames = Wav2Vec2Frames.from_checkpoint(weights, layer=layer, normalise=normalise,
                                            num_heads=num_heads, mesh=mesh)
    return UnitEncoder(frames, kmeans.read_centroids(centroids, frames.width))


def from_recipe(recipe: dict, arrays: dict[str, np.ndarray], *, weights: str | None = None,
                where: str = "codecs/units.npz",
                mesh: Mesh | None = None) -> UnitEncoder:
    """The encoder of a dataset or workdir. weights: the published checkpoint, where the recipe
    names one by its hash.

    Raises:
      UserError: unknown kind, arrays that do not fit the recipe, missing weights or others than the
        recipe's.
    """
    made_of = recipe.get("frames", {})
    kind = made_of.get("kind")
    source = made_of.get("weights", {}).get("kind")
    if kind == "mel":
        frames = MelFrames(made_of.get("context", 0), made_of.get("level"),
                           made_of.get("silence_db"))
    elif kind == "wav2vec2" and source == "random":
        network = Wav2Vec2Config(**{k: tuple(v) if isinstance(v, list) else v for k,
                                    v in made_of["network"].items()})
        frames = Wav2Vec2Frames.random(network, layer=made_of["layer"],
                                       seed=made_of["weights"]["seed"], mesh=mesh)
    elif kind == "wav2vec2" and weights:
        frames = Wav2Vec2Frames.from_checkpoint(weights, layer=made_of["layer"],
                                                normalise=made_of["normalise"],
                                                num_heads=made_of["network"]["num_heads"],
                                                precision=made_of["precision"], mesh=mesh)
    elif kind == "wav2vec2":
        raise UserError("the units' network is not kept with the dataset", where=where,
                        expected="the checkpoint with sha256 "
                        f"{made_of['weights']['sha256'][:12]}...",
                        found="no weights given", hint="give the checkpoint that the units were "
                                                       "extracted with")
    else:
        raise UserError("unknown kind of units", where=where,
                        expected="frames of kind mel or wav2vec2", found=repr(kind),
                        hint="extract the features with this version")
    centroids_KD = np.asarray(arrays.get(CENTROIDS, np.zeros((0, 0))), np.float32)
    if centroids_KD.shape != (recipe["units"],
                              frames.width) or _text(frames.recipe) != _text(made_of):
        raise UserError("units of another recipe", where=where,
                        expected=f"{recipe['units']} centroids of {_text(made_of)}",
                        found=f"centroids {centroids_KD.shape} of {_text(frames.recipe)}",
                        hint="extract the features again")
    return UnitEncoder(frames, centroids_KD)


def _text(recipe: dict) -> str:
    """The same for a recipe and for what JSON makes of it."""
    return json.dumps(recipe, sort_keys=True)
