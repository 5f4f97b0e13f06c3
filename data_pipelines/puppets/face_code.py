"""Named articulators <-> face codes: z-score, then a fixed orthonormal mix, so that a code has no
meaning by itself.

Units: apertures and widths are relative to the resting mouth; -1 .. 1 or 0 .. 1 by name.
`lip_aperture` below 0 means lips pressed together.
"""

import numpy as np

NAMES = ("jaw_open", "lip_aperture", "lip_width", "lip_protrusion", "upper_lip_raise",
         "lower_lip_drop", "tongue_tip", "tongue_body", "smile", "blink_left", "blink_right",
         "brow_left", "brow_right", "gaze_x", "gaze_y",
         "cheek_raise")
WIDTH = len(NAMES)
INDEX = {name: i for i, name in enumerate(NAMES)}
_APERTURE_UNIT = 0.5  # mouth widths at lip_aperture 1


def fit(articulators_NA: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Codec arrays: mix (16, 16) orthonormal, mean and std (16,) of the training articulators,
    names."""
    q, r = np.linalg.qr(np.random.default_rng([seed, 16]).normal(size=(WIDTH, WIDTH)))
    mix = q * np.sign(np.diag(r))
    return {"mix": mix.astype(np.float32), "mean": articulators_NA.mean(0).astype(np.float32),
            "std": np.maximum(articulators_NA.std(0), 1e-3).astype(np.float32),
            "names": np.array(NAMES)}


def encode(articulators_NA: np.ndarray, codec) -> np.ndarray:
    """(N, 16) articulators -> (N, 16) float32 codes."""
    return (((articulators_NA - codec["mean"]) / codec["std"]) @ codec["mix"]).astype(np.float32)


def decode(face_NF: np.ndarray, codec) -> dict[str, np.ndarray]:
    """(N, 16) codes -> {articulator: (N,)}."""
    values = (np.asarray(face_NF, np.float32) @ codec["mix"].T) * codec["std"] + codec["mean"]
    return {str(name): values[:, i] for i, name in enumerate(codec["names"])}


def lips(articulators) -> tuple[np.ndarray, np.ndarray]:
    """(inner-lip aperture >= 0, mouth width), each (N,), in resting mouth widths."""
    aperture = _APERTURE_UNIT * np.maximum(articulators["lip_aperture"], 0)
    return aperture, 1 + 0.25 * articulators["lip_width"] - 0.15 * articulators["lip_protrusion"]
