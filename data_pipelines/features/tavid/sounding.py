"""What Hallo2 is driven by and looks at, for extraction and for prompts: frames of sound, its audio
tokens, and where the face and its regions lie in a portrait.

Regions follow from the framing: portraits are cut so that a face lies at the same place in each, so
these maps are the same for all portraits of a corpus. (Hallo2 draws them around landmarks.) All of
the geometry is ours by choice. Suffixes: N samples, T frames, A features, M tokens, K width, H W
pixels, h w latents, P = 3 regions: border (Hallo2's "full"), face without lips, lips.
"""

import dataclasses
import os
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy import ndimage

from avjax.encoders.driving import layers
from avjax.encoders.portrait import shrink
from avjax.errors import UserError
from avjax.sharding.rules import named_leaves
from avjax.systems import api
from avjax.systems.tavid.visual.config import REGIONS
from avjax.systems.tavid.visual.names import hallo2
from avjax.systems.tavid.visual.parts import AudioProjection, windows
from avjax.weights.reader import file_sha256, read_state_dict
from data_pipelines.media import faces
from data_pipelines.store.schema import arrays_hash

# (centre x, centre y, half width, half height) in sides of the face's box, from its middle
FACE, LIPS = (0.0, 0.02, 0.50, 0.60), (0.0, 0.31, 0.26, 0.16)
PUPPET_BOX = 1.89  # side of a zoom-1 picture in boxes around the head, as in common/portraits.py
SHAPES = {"kind": "ellipses", "face": FACE, "lips": LIPS, "of": "the framing"}
SOFT = {"face": 0.05, "lips": 0.03}  # deviation of the blur, in sides of the picture


@dataclasses.dataclass(frozen=True)
class AudioTokens:
    """Hallo2's audio tokens (T, M K) of frames of sound (T, A), by a frozen projection."""

    projection: AudioProjection
    params: dict
    margin: int
    weights: Mapping

    @property
    def width(self) -> int:
        return self.projection.tokens * self.projection.width

    @property
    def recipe(self) -> dict:
        return {"kind": "hallo2-audio-tokens", "tokens": self.projection.tokens,
                "width": self.projection.width, "margin": self.margin,
                "weights": dict(self.weights)}

    def __call__(self, audio_TA: np.ndarray) -> np.ndarray:
        """float16; in parts of one size, so that one program serves all lengths."""
        out, size = [], 128
        windows_TWA = windows(np.asarray(audio_TA, np.float32), self.margin)
        for start in range(0, len(audio_TA), size):
            part = windows_TWA[start:start + size]
            full = np.pad(part, ((0, size - len(part)), (0, 0), (0, 0)))
            made = _project(self.projection, self.params, full[None])
            out.append(np.asarray(made)[0, :len(part)].reshape(len(part), -1))
        return np.concatenate(out or [np.zeros((0, self.width))]).astype(np.float16)


_project = jax.jit(lambda net, params, x: net.apply({"params": params}, x), static_argnums=0)


def load_tokens(path: str, encoder: layers.SoundLayers) -> AudioTokens:
    """Of a published net.pth (or an export of ours), or of the workdir of an audio-driven
    tavid.visual. UserError: neither, or of another encoder's frames."""
    params, margin, weights = _of_workdir(path) if os.path.isdir(path) else _of_file(path)
    inputs, hidden = params["hidden1"]["kernel"].shape
    _, tokens, width = params["project"]["kernel"].shape
    wanted = (2 * margin + 1) * encoder.width
    if inputs != wanted:
        raise UserError("these audio tokens are made of another encoder's frames", where=path,
                        expected=f"{wanted} inputs: {2 * margin + 1} frames of {encoder.width}",
                        found=str(inputs), hint="give the --audio_encoder that it was trained with")
    return AudioTokens(AudioProjection(inputs, hidden, tokens, width, jnp.float32),
                       params, margin, weights)


def _of_file(path: str):
    state = read_state_dict(path)
    own = {name.removeprefix("audioproj."): value for name, value in state.items()
           if name.startswith("audioproj.")}
    own = own or (dict(state) if "proj3.weight" in state else {})
    if not own:
        raise UserError("no audio projection in the file", where=path,
                        expected="audioproj.proj1 to proj3, as in Hallo2's net.pth",
                        found=", ".join(sorted(state)[:3]) or "nothing")
    tokens = len(own["proj3.bias"]) // len(own["norm.bias"])
    return hallo2.import_audio_projection(own, tokens), 2, {"kind": "file",
                                                            "sha256": file_sha256(path)}


def _of_workdir(path: str):
    from avjax.checkpoint import loading  # which imports Orbax: a second for who needs none

    meta = loading.load_meta(path)
    config = meta.get("config", {}).get("system", {})
    if config.get("name") != "tavid.visual" or config.get("driver") != "audio":
        raise UserError("this job has no audio projection", where=path,
                        expected="a tavid.visual with driver audio",
                        found=f"{config.get('name')}, driver {config.get('driver')}",
                        hint="train configs/hallo2.py, or import Hallo2's net.pth")
    shapes = api.abstract_params(api.build(ConfigDict(config)))
    fresh = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes["audio_projection"])
    params, _ = loading.warm_start(fresh, path, of="audio_projection")
    params = jax.tree.map(np.asarray, params)
    return params, int(config["audio"]["margin"]), {
        "kind": "job", "arrays": arrays_hash(dict(named_leaves(params)))}


def box(recipe: Mapping) -> tuple[float, float, float]:
    """(middle x, middle y, side) of the face in a framed portrait, in sides of the picture.
    recipe: that of the portraits."""
    if recipe["kind"] == "puppet":
        return 0.5, 0.5, recipe.get("zoom", 1.0) / PUPPET_BOX
    return 0.5, 0.5 - faces.LOWER, 1 / faces.MARGIN


def face_mask(recipe: Mapping, height: int, width: int) -> np.ndarray:
    """(H, W) float32 in {0, 1}: where the face lies, for the face locator."""
    return _ellipse(FACE, recipe, height, width)


def regions(recipe: Mapping, height: int, width: int) -> np.ndarray:
    """(h, w, P) float32, 0 to 1, in the order of REGIONS. Each is soft and spans 0 to 1."""
    scale = max(1, -(-128 // min(height, width)))  # fine enough for lips
    fine = (scale * height, scale * width)
    face, lips = (_ellipse(shape, recipe, *fine) for shape in (FACE, LIPS))
    maps = {"full": _soft(1 - face, "face"), "face": _soft(face * (1 - lips), "face"),
            "lip": _soft(lips, "lips")}
    x = np.stack([maps[name] for name in REGIONS], axis=-1)
    return shrink(x[None], height, width)[0].astype(np.float32)


def _soft(map_HW: np.ndarray, kind: str) -> np.ndarray:
    x = ndimage.gaussian_filter(map_HW, SOFT[kind] * min(map_HW.shape), mode="nearest")
    return (x - x.min()) / max(float(np.ptp(x)), 1e-6)


def _ellipse(shape, recipe: Mapping, height: int, width: int) -> np.ndarray:
    x0, y0, side = box(recipe)
    dx, dy, half_x, half_y = shape
    y, x = np.mgrid[:height, :width]
    x = ((x + 0.5) / width - x0) / side - dx
    y = ((y + 0.5) / height - y0) / side - dy
    return ((x / half_x) ** 2 + (y / half_y) ** 2 <= 1).astype(np.float32)
