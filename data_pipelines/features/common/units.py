"""The unit encoder of a job: published, of another dataset, or fitted once on speech of a split.

Suffixes: N samples, T frames, K units.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Annotated

import jax
import numpy as np

from avjax.encoders import speech_frames
from avjax.encoders import units as unit_library
from avjax.encoders.published import bound_units
from avjax.encoders.units import UnitEncoder
from avjax.errors import UserError
from avjax.sharding.mesh import make_mesh
from data_pipelines.declared import Option
from data_pipelines.features.common import clips as common
from data_pipelines.store.schema import arrays_hash, recipe_hash

SAMPLE_RATE = 16000
KINDS = ("mel", "random")  # that need no checkpoint
NORMALISE = {"auto": None, "yes": True, "no": False}
_FIT_SECONDS = 7200.0  # of speech that units are fitted on
_QUIET = 1e-4  # power, of the loudest frame's

SilenceDb = Annotated[float, Option(
    "mel units that are fitted here: frames so many dB below a recording's loudest are one unit, "
    "0; 0 dB: not", least=0)]

Speech = Callable[[], Iterable[list[np.ndarray]]]  # lists of channels (N,) at SAMPLE_RATE


@dataclasses.dataclass(frozen=True)
class PublishedUnits(UnitEncoder):
    """`filler`: the unit that silence of the training split has most often, which no publication
    tells."""

    filler: int = 0

    @property
    def recipe(self) -> dict:
        return super().recipe | {"filler": self.filler}


def chosen(kind: str, centroids: str | None, layer: int, *,
           like: bool = False) -> tuple[str, str | None]:
    """--unit_encoder and --centroids, those inside where `kind` is a folder that `avjax weights
    import --system=units` has made.

    Args:
      layer: --layer.
      like: units of another dataset, which has centroids of its own.

    Raises UserError: centroids beside those of the folder, or another layer than they are of.
    """
    bound = None if kind in KINDS else bound_units.read(kind)
    if bound is None:
        return kind, centroids
    if centroids:
        raise UserError("centroids twice", where="--centroids",
                        expected=f"none beside {kind}, which has its own", found=centroids,
                        hint="leave it out, or name the network's file")
    if layer != bound.layer:
        raise UserError("centroids of another layer", where=f"--layer={layer}",
                        expected=str(bound.layer), found=str(layer),
                        hint=f"--layer={bound.layer}, or import the centroids of that layer")
    return bound.network, None if like else bound.centroids


def with_hash(codec) -> dict:
    """A codec's recipe, and what tells its arrays from others."""
    return {**codec.recipe, "arrays": arrays_hash(codec.arrays())}


def encoder(job, speech: Speech, kind: str, *, num_units: int, centroids, layer: int, seed: int,
            normalise: str = "auto", silence_db: float = 0.0) -> UnitEncoder:
    """Published, or fitted on speech of a split and numbered so that unit 0 is the quietest. Over
    all accelerators of this process.

    Args:
      job: fits once, whoever of several parts comes first (`Partial.once`).
      speech: gives a fresh iterator over the split's channels in random order whenever it is
        called; as much is taken as is needed.
      kind: of KINDS, or a checkpoint.
      centroids: published ones (.npy) of the checkpoint's frames; None = fitted here.
      layer, normalise: of the checkpoint; see Wav2Vec2Frames.
      silence_db: of mel frames; see MelFrames.

    Raises UserError: `silence_db` of other frames, or as the libraries that are called.
    """
    if silence_db and (kind != "mel" or centroids):
        raise UserError("one unit for silence is for mel units that are fitted here",
                        where="--silence_db", expected="--unit_encoder=mel", found=kind,
                        hint="leave it out")
    devices = mesh()
    options = {"layer": layer, "normalise": NORMALISE[normalise], "mesh": devices}

    def quiet(units):
        return sum(_quiet(units, channels) for channels in itertools.islice(speech(), 4))

    if centroids:
        common.choice("unit_encoder", kind, [kind] if kind not in KINDS
                      else ["CHECKPOINT, the centroids' network"])
        known = unit_library.published(kind, centroids, **options)
        count_K = job.once(f"filler-{recipe_hash(with_hash(known))}",
                           lambda: {"count": quiet(known)})["count"]
        return PublishedUnits(known.frames, known.centroids_KD, int(count_K.argmax()))
    frames = (speech_frames.MelFrames(silence_db=silence_db or None) if kind == "mel"
              else speech_frames.Wav2Vec2Frames.random(seed=seed, mesh=devices)
              if kind == "random"
              else speech_frames.Wav2Vec2Frames.from_checkpoint(kind, **options))

    def fit():
        fitted = unit_library.fit(frames, lambda: _first(speech(), _FIT_SECONDS), num_units,
                                  seed=seed, mesh=devices)
        return {unit_library.CENTROIDS:
                fitted.centroids_KD[np.argsort(-quiet(fitted), kind="stable")]}

    # not those of what lay at the checkpoint's path before
    arrays = job.once(f"units-{recipe_hash(frames.recipe)}", fit)
    return unit_library.UnitEncoder(frames, arrays[unit_library.CENTROIDS])


def of_dataset(features, weights: str | None) -> UnitEncoder:
    """The encoder of another dataset of features, so that its units mean the same. weights: the
    checkpoint, where that has one. UserError: a dataset without units, or another checkpoint."""
    if "units" not in features.codecs or "units" not in features.recipes:
        raise UserError("a dataset without units", where=str(features.dir),
                        expected="a recipe and a codec named units",
                        found=", ".join(features.codecs) or "no codecs",
                        hint="name features that have units, such as --features=tavid makes")
    recipe = features.recipes["units"]
    known = unit_library.from_recipe(recipe, features.codec("units"), weights=weights,
                                     where=str(features.dir), mesh=mesh())
    if "filler" in recipe:
        known = PublishedUnits(known.frames, known.centroids_KD, recipe["filler"])
    return known


def mesh():
    """All accelerators of this process; None where there are none."""
    return None if jax.default_backend() == "cpu" else make_mesh({"data": -1}, jax.local_devices())


def _first(batches: Iterable[list[np.ndarray]], seconds: float) -> Iterable[list[np.ndarray]]:
    """The first batches, that many seconds of them."""
    heard = 0.0
    for channels in batches:
        yield channels
        heard += sum(map(len, channels)) / SAMPLE_RATE
        if heard >= seconds:
            return


def _quiet(encoder: UnitEncoder, channels: list[np.ndarray]) -> np.ndarray:
    """(K,) how often each unit is where nobody speaks: 40 dB below the channel's loudest frame."""
    count_K = np.zeros(encoder.num_units, int)
    hop = SAMPLE_RATE // unit_library.RATE
    for audio_N, units_T in zip(channels, encoder(channels), strict=True):
        frames = min(len(units_T), len(audio_N) // hop)
        power_T = (audio_N[:frames * hop].reshape(-1, hop) ** 2).mean(1)
        quiet_T = power_T < _QUIET * power_T.max(initial=0.0)
        count_K += np.bincount(units_T[:frames][quiet_T], minlength=encoder.num_units)
    return count_K
