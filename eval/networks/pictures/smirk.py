"""SMIRK: the parameters of FLAME's face in a picture (Retsinas et al. 2024, arXiv:2404.04104):
expression, eyelids, jaw, head, camera and shape.

Published by github.com/georgeretsi/smirk, `SMIRK_em1.pt`. Three networks look at the same picture:
a small MobileNetV3 tells head and camera, a large one expression, eyelids and jaw, another large
one the shape. FLAME itself, which would make vertices of them, is not here.
Suffixes: B batch, N pictures, H height, W width, C channels, K points, P parameters.
"""

import dataclasses
from collections.abc import Iterable

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from avjax.sharding import rows
from avjax.weights import names
from avjax.weights.reader import read_state_dict
from eval.networks.pictures import mobilenet
from eval.networks.placed import Placed

FILE = "SMIRK_em1.pt"
SIZE = 224
SCALE = 1.4  # side of the crop, in means of width and height of the points
TOGETHER = 64  # pictures, on an accelerator
PREFIX, GENERATOR = "smirk_encoder.", "smirk_generator."
EXPRESSION, EYELIDS, JAW = 50, 2, 3
ROLL = 0.2  # largest turn of the jaw to a side, radians
RECIPE = {"network": "SMIRK", "size": SIZE, "crop": f"square about the points, {SCALE} of the mean "
          "of their width and height, as its demo", "levels": "0 to 1"}


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the networks.

    Attributes:
      kind: of mobilenet.py.
      head: published name of the linear layer behind the mean over the picture.
      numbers: that it gives.
    """

    kind: mobilenet.Kind
    head: str
    numbers: int


PARTS = {"pose_encoder": Part(mobilenet.SMALL, "pose_cam_layers.0", 6),
         "shape_encoder": Part(mobilenet.LARGE, "shape_layers.0", 300),
         "expression_encoder": Part(mobilenet.LARGE, "expression_layers.0",
                                    EXPRESSION + EYELIDS + JAW)}


def import_params(state: dict[str, np.ndarray], where: str = "") -> dict:
    """{published name: array} -> {part: {"blocks", "head": {"kernel", "bias"}}}, float32. Raises
    Unlike (a UserError) with every array that is missing, left over or of another shape."""
    state = {name.removeprefix(PREFIX): x for name, x in state.items()
             if not name.startswith(GENERATOR) and not name.endswith(".num_batches_tracked")}
    inner = {part: _under(state, f"{part}.encoder.") for part in PARTS}
    expected: dict[str, names.Shape] = {}
    for part, of in PARTS.items():
        found, width = mobilenet.shapes(of.kind, inner[part])
        expected |= {f"{part}.encoder.{name}": shape for name, shape in found.items()}
        expected[f"{part}.{of.head}.weight"] = (of.numbers, width)
        expected[f"{part}.{of.head}.bias"] = (of.numbers,)
    names.check_arrays({n: np.shape(x) for n, x in state.items()}, expected,
                       "these are not the weights of SMIRK", where=where,
                       hint=f"give the file as it is published, {FILE}")
    return {part: {"blocks": mobilenet.folded(of.kind, inner[part]),
                   "head": {"kernel": np.float32(state[f"{part}.{of.head}.weight"].T),
                            "bias": np.float32(state[f"{part}.{of.head}.bias"])}}
            for part, of in PARTS.items()}


def _under(state: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}


def raw(params: dict, part: str, x_BHWC: jax.Array) -> jax.Array:
    """(B, 224, 224, 3) in [0, 1] -> (B, numbers) of one of PARTS, before any limit."""
    *_, (_, last_BHWC) = mobilenet.maps(params[part]["blocks"], PARTS[part].kind, x_BHWC)
    return last_BHWC.mean((1, 2)) @ params[part]["head"]["kernel"] + params[part]["head"]["bias"]


def limited(expression_BP: jax.Array) -> dict[str, jax.Array]:
    """What the expression's network gives -> `expression` (B, 50), `eyelids` (B, 2) from 0 (open)
    to 1, `jaw` (B, 3) radians, of which the first opens the mouth."""
    eyelids_BP, jaw_BP = expression_BP[:, EXPRESSION:-JAW], expression_BP[:, -JAW:]
    return {"expression": expression_BP[:, :EXPRESSION], "eyelids": jnp.clip(eyelids_BP, 0, 1),
            "jaw": jnp.concatenate([jax.nn.relu(jaw_BP[:, :1]),
                                    jnp.clip(jaw_BP[:, 1:], -ROLL, ROLL)], 1)}


def codes(params: dict, pictures_BHWC: jax.Array) -> dict[str, jax.Array]:
    """(B, 224, 224, 3) uint8 RGB -> `limited`, `pose` (B, 3) rotation vector of the head."""
    with jax.default_matmul_precision("float32"):
        x_BHWC = pictures_BHWC.astype(jnp.float32) / 255
        return limited(raw(params, "expression_encoder", x_BHWC)) | {
            "pose": raw(params, "pose_encoder", x_BHWC)[:, :3]}


@jax.jit
def _beside(params, pictures_BHWC):
    found = codes(params, pictures_BHWC)
    return jnp.concatenate([found[name] for name in COLUMNS], 1)


_WIDTHS = {"expression": EXPRESSION, "eyelids": EYELIDS, "jaw": JAW, "pose": 3}
COLUMNS = {name: slice(end - width, end) for (name, width), end in
           zip(_WIDTHS.items(), np.cumsum(list(_WIDTHS.values())).tolist(), strict=True)}


def cropped(picture_HWC: np.ndarray, points_K2: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 and points of its face (x, y) in pixels -> (224, 224, 3): what SMIRK looks
    at; black beyond the picture."""
    low, high = points_K2.min(0), points_K2.max(0)
    side = max(int((high - low).mean() * SCALE), 1)
    scale = (SIZE - 1) / side
    offset = -scale * ((low + high) / 2 - side / 2)
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    return cv2.warpAffine(picture_HWC, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR)


class Smirk:
    """Of a file's arrays.

    Args:
      state: {published name: array}.
      where: of the reader's error.
      together: pictures that a device takes at once; numbers do not depend on it.
      mesh: over whose data axes they are split; None = all devices of this process.
    """

    def __init__(self, state: dict[str, np.ndarray], where: str = "",
                 together: int | None = None, mesh: Mesh | None = None):
        params = import_params(state, where)
        del params["shape_encoder"]  # nothing asks for shapes
        self._rows = Placed(params, together or rows.at_once(TOGETHER), mesh)

    def __call__(self, crops: Iterable[np.ndarray]) -> np.ndarray:
        """Any number N of `cropped` pictures -> (N, 58) float32, see COLUMNS."""
        found = self._rows(_beside, crops)
        return np.stack(found) if found else np.zeros((0, sum(_WIDTHS.values())), np.float32)


def load(path) -> Smirk:
    """Of a published file. UserError: unreadable, or of another network."""
    return Smirk(read_state_dict(path), where=str(path))
