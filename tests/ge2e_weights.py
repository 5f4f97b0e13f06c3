"""Random weights of the GE2E voice encoder under the published names, and a detector of speech that
needs no package."""

import numpy as np
import pytest

from avjax.encoders.voices import ge2e, speech


def random_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    out = {}
    for layer, width in enumerate((40, 256, 256)):
        out |= {f"lstm.weight_ih_l{layer}": rng.normal(size=(1024, width)) / 16,
                f"lstm.weight_hh_l{layer}": rng.normal(size=(1024, 256)) / 16,
                f"lstm.bias_ih_l{layer}": rng.normal(size=1024) / 16,
                f"lstm.bias_hh_l{layer}": rng.normal(size=1024) / 16}
    return out | {"linear.weight": rng.normal(size=(256, 256)), "linear.bias": rng.normal(size=256)}


class Loud:
    """Speech is what is loud."""

    def is_speech(self, pcm, rate):
        return bool(np.abs(np.frombuffer(pcm, "<i2")).max() > 100)


def install(patch: pytest.MonkeyPatch) -> None:
    """In the place of both packages."""
    patch.setattr(ge2e, "read", random_weights)
    patch.setattr(speech, "detector", Loud)
