"""Scores faces that listen, as arrays of face code and head that any system has generated: the
corpora of DECA's and Deep3DFaceRecon's codes (Learning to Listen, ViCo).

Variants of every clip:
    NAME      ID.npy in a folder of generated arrays, (frames, numbers): the listener's columns side
              by side, face first, at the clips' rate
    truth     the listener's own
    shuffled  the listener of another clip, cut or looped to the truth's length
Every frame counts: the corpora are cut to where the partner speaks.
Suffixes: T frames, M numbers of face, then head.
"""

import functools
import types
from collections.abc import Callable, Mapping

import numpy as np

from avjax.errors import UserError
from eval.benchmarks.named import given
from eval.benchmarks.named.declaration import Named
from eval.data.clips import fit
from eval.data.matched import Matched
from eval.metrics.listener import STRANGERS
from eval.registry import MOTION

# columns of clips, in the order of a frame's numbers
FACE, HEAD = "face", ("rotation", "jaw", "angles", "translation")
PARTNER = "partner_"


class Listener:
    """Motion of one variant of one clip.

    Args:
      make: gives (T, M); called when it is needed.
      fps: its rate.
    """

    has_audio, has_motion, own_length, speaker = False, True, False, ""

    def __init__(self, make: Callable[[], np.ndarray], fps: float):
        self._make, self._fps = make, fps
        self.scored, self.streams = {MOTION}, {}

    @functools.cached_property
    def motion_TM(self) -> np.ndarray:
        """UserError: no such numbers."""
        return self._make()

    @property
    def seconds(self) -> float:
        return len(self.motion_TM) / self._fps

    @property
    def length(self) -> float:
        """Of which lengths are compared: seconds."""
        return self.seconds


class Benchmark(given.Benchmark):
    """DIM's measures; see given.Benchmark. UserError: clips without codes of both."""

    baselines = ("truth", "shuffled")

    def __init__(self, named: Named, dataset, matched: Mapping[str, Matched], *,
                 networks: str = ""):
        heads = tuple(name for name in HEAD if name in dataset.features)
        self.parts = (FACE, *heads)
        if lacking := [p + n for p in ("", PARTNER) for n in self.parts
                       if p + n not in dataset.features]:
            raise UserError("arrays are compared with face codes of listener and speaker",
                            where=str(dataset.dir), expected=", ".join(lacking),
                            found=", ".join(dataset.features))
        widths = [dataset.features[name].shape[-1] for name in self.parts]
        self.columns = {"e": slice(0, widths[0]), "h": slice(widths[0], sum(widths))}
        self.width, self.motion_fps = sum(widths), dataset.features[FACE].rate
        decoder = types.SimpleNamespace(has_face=False, decoding={}, sample_rate=1,
                                        fps=self.motion_fps)
        super().__init__(named, decoder, dataset, matched, networks)
        self.fields = ("id", "speaker", "text", *self.parts, *(PARTNER + n for n in self.parts))

    @property
    def offers(self):
        return {MOTION, "conversation"}

    def recipe_of(self, metric):
        return super().recipe_of(metric) | {"frames": f"all, at {self.motion_fps:g} Hz",
                                            "numbers": ", ".join(self.parts)}

    def read(self, example):
        return Listener(lambda: self._side(example), self.motion_fps)

    def _side(self, example, prefix: str = "") -> np.ndarray:
        return np.concatenate([example[prefix + name] for name in self.parts], axis=1)

    def partner(self, split: str, index: int) -> np.ndarray:
        """(T, M) of whom the listener listens to."""
        return self._side(self.source(split)[index], PARTNER)

    def others(self, split: str, index: int, count: int) -> list[int]:
        """Other clips; depends on the seed and the id only."""
        ids = self.source(split).ids
        rest = sorted((i for i in range(len(ids)) if i != index), key=ids.__getitem__)
        order = self._draw(split, index).permutation(len(rest))
        return [rest[i] for i in order[:count]] or [index]

    def model(self, streams, variant, split, index):
        file, lacking = self.files_of(variant, split, index)

        def make():
            if file is None:
                raise UserError(lacking)
            return _read(file.path, self.truth(split, index).motion_TM.shape)
        return Listener(make, self.motion_fps)

    def baseline(self, variant, split, index):
        truth = self.truth(split, index)
        if variant == "truth":
            return truth
        other = self.truth(split, self.others(split, index, 1)[0])
        return Listener(lambda: fit(other.motion_TM, len(truth.motion_TM)), self.motion_fps)

    def frames(self, split, index, signals):
        truth, count = self.truth(split, index), len(signals.motion_TM)
        strangers = self.others(split, index, STRANGERS)
        return {"own_0": signals.motion_TM, "true_0": truth.motion_TM,
                "partner_0": self.partner(split, index)} | {
            f"other{k}_0": fit(self.partner(split, i), count) for k, i in enumerate(strangers)}

    def pictures(self, streams, identity):
        """None: nothing here draws these codes."""
        return None


def _read(path, shape: tuple[int, int]) -> np.ndarray:
    """A (T, M) array of numbers. UserError for another one."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError("unreadable", where=str(path), expected="an array of numbers (.npy)",
                        found=str(error).splitlines()[0]) from error
    if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype.kind not in "fiu":
        raise UserError("an array of another shape", where=str(path), expected=str(shape),
                        found=str(getattr(found, "shape", type(found).__name__)))
    if not np.isfinite(found).all():
        raise UserError("numbers that are not finite", where=str(path), expected="finite numbers")
    return found.astype(np.float32)
