"""Where a puppet's 68 points are, from its drawing's own geometry: the truth that fits and signals
are tested against."""

import numpy as np

from data_pipelines.media import head_rotation
from data_pipelines.puppets import render
from data_pipelines.puppets.face_code import NAMES


def points(articulators, pose_N7, identity, size: int = 256, zoom: float = 1.0) -> np.ndarray:
    """(N, 68, 2) pixels of a picture of `size`: eyes, nose, lips, temples, chin; NaN for the rest
    of the contour and the brows, which nothing here reads."""
    looks = render._looks(tuple(round(float(v), 4) for v in np.clip(identity, -1, 1)))
    a = {name: np.asarray(articulators[name], np.float64)[:, None] for name in NAMES}
    out = np.full((len(pose_N7), 68, 3), np.nan)

    def put(indices, xyz):
        out[:, indices] = xyz

    w = looks["width"]
    put([0, 16], render._points(np.array([-w, w]), np.full(2, -0.115), 0.05))
    jaw = 0.10 * np.clip(a["jaw_open"], -0.2, 1.5)
    put([8], render._points(np.zeros(1), looks["chin"] + jaw, 0.05))
    put([27, 28, 29, 30], np.array([[0, -0.10, 0.73], [0, 0.0, 0.79], [0, 0.10, 0.85],
                                    [0, 0.22, 0.90]]))
    put([33], render._surface(np.zeros(1), np.array([0.29]), 0.14))
    for side, first, name in ((-1, 36, "left"), (1, 42, "right")):
        r, opening = looks["eye"], 1 - np.clip(a[f"blink_{name}"], 0, 1)
        top = r * (0.85 * opening - 0.35 * (1 - opening))
        bottom = r * (0.62 * (1 - 0.25 * np.clip(a["cheek_raise"], 0, 1)) * opening
                      + 0.4 * (1 - opening))
        x = side * 0.34 + r * np.array([-1, -0.5, 0.5, 1, 0.5, -0.5])
        arch = np.sqrt(0.75) * np.array([0, 1, 1, 0, 0, 0]) * -top
        arch = arch + np.sqrt(0.75) * np.array([0, 0, 0, 0, 1, 1]) * bottom
        put(np.arange(first, first + 6), render._surface(x, -0.13 + arch, 0.02))
    _lips(put, a, jaw)
    turned = out @ np.swapaxes(head_rotation.matrix(pose_N7[:, :4]), 1, 2)
    turned = turned + 2 * np.asarray(pose_N7[:, None, 4:], np.float64)
    flat = turned[..., :2] * 6 / (6 - turned[..., 2:])
    return flat * 0.33 * zoom * size + size / 2


def _lips(put, a, jaw):
    """The inner lips, as render draws them: corners 60 and 64, above 61-63, below 65-67."""
    smile = np.clip(a["smile"], -1, 1.5)
    half = 0.27 * (1 + 0.28 * a["lip_width"] - 0.25 * a["lip_protrusion"] + 0.22 * smile)
    gap = 0.30 * np.maximum(a["lip_aperture"], 0)
    u = np.array([-1, -0.5, 0, 0.5, 1, 0.5, 0, -0.5])
    shape = (1 - u**2) ** 0.7
    middle = 0.53 + 0.35 * jaw - 0.12 * smile * (u**2 - 0.4)
    upper = middle - (0.4 * gap + 0.035 * a["upper_lip_raise"]) * shape
    lower = middle + (0.6 * gap + 0.035 * a["lower_lip_drop"]) * shape
    meet = (upper + lower) / 2
    upper, lower = np.where(gap > 0.003, upper, meet), np.where(gap > 0.003, lower, meet)
    y = np.where(np.arange(8) < 4, upper, np.maximum(lower, upper))
    put(np.arange(60, 68), render._surface(half * u, y, 0.04))
    put([48, 54], render._surface(half * np.array([-1, 1]), y[:, [0, 4]], 0.04))
