"""Expression energy over time: how far a face is from the person's mean face.

AV-Flow's figures 6 and 9 show such curves of who speaks and who listens; the paper's definition is
not known to us, so this one is ours:

    E(t) = |f(t) - m|^2 / mean over t of |f*(t) - m|^2

of face codes f (or motion codes, where nothing can take them apart), where f* are the truth's and m
is their mean over the clip, smoothed by a Gaussian of SMOOTH_S. The truth's mean is 1.
"""

import dataclasses

import numpy as np
from scipy import ndimage

SMOOTH_S = 0.1
RECIPE = {"of": "squared distance of the face codes from the truth's mean in the clip",
          "unit": "the truth's mean", "smooth_s": SMOOTH_S, "by": "our choice"}


def energy(codes_TC, true_TC, fps: float) -> np.ndarray:
    """(T,) of codes at `fps` frames a second, in the unit of the truth's."""
    true_TC = np.asarray(true_TC, np.float64)
    mean_C = true_TC.mean(0)
    unit = np.square(true_TC - mean_C).sum(1).mean()
    own_T = np.square(np.asarray(codes_TC, np.float64) - mean_C).sum(1) / max(unit, 1e-12)
    return ndimage.gaussian_filter1d(own_T, SMOOTH_S * fps)


@dataclasses.dataclass(frozen=True)
class Curves:
    """Of one speaker: {who: (T,)}, the truth's among them, and (T,) bool of the truth where this
    speaker speaks, None where that is not known."""

    title: str
    energies: dict[str, np.ndarray]
    speaking: np.ndarray | None

    def said(self) -> str:
        """Means in words: of all, or of speaking and of listening."""
        return "; ".join(f"{who} {self._means(x)}" for who, x in self.energies.items())

    def _means(self, x) -> str:
        if self.speaking is None or not 0 < self.speaking.sum() < len(self.speaking):
            return f"{x.mean():.2f}"
        n = min(len(x), len(self.speaking))
        parts = {"speaking": x[:n][self.speaking[:n]], "else": x[:n][~self.speaking[:n]]}
        return ", ".join(f"{part.mean():.2f} {name}" for name, part in parts.items() if len(part))


def curves(benchmark, split: str, index: int, models: dict, truth, truth_name: str) -> list[Curves]:
    """Of every speaker of an example. models: {who: Signals} with motion."""
    part = "m" if "m" in benchmark.stored_parts else "e"
    true_S = truth.motion(part)
    speaking = benchmark.speaking(split, index, len(true_S[0]))
    out = []
    for s, true_TC in enumerate(true_S):
        found = {who: signals.motion(part)[s] for who, signals in models.items()}
        found[truth_name] = true_TC
        out.append(Curves(
            f"speaker {s + 1}" if len(true_S) > 1 else "expression energy",
            {who: energy(x, true_TC, benchmark.motion_fps) for who, x in found.items()},
            None if speaking is None else speaking[s]))
    return out
