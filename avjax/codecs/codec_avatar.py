"""The geometry of a Codec Avatar: expression codes to vertices of the face.

Two linear layers with a leaky rectifier between, as AV-Flow's release decodes them; its texture and
warp are other branches of the same file, which nothing here needs. A weight is g * v / |v|, where
|v| is the norm of the whole matrix and g has a number a row: not the usual weight norm.
Suffixes: N frames, Z code, H hidden, V vertices.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping

import numpy as np

from avjax.errors import UserError
from avjax.weights.reader import read_state_dict

LEAK = 0.2
LAYERS = ("encmod.0", "geommod.0")
_AT_ONCE = 256  # frames: 22 MB of vertices at the published size


@dataclasses.dataclass(frozen=True)
class CodecAvatar:
    """Folded weights, and what its output is normalised by.

    Attributes:
      hidden_HZ, hidden_bias_H: the first layer.
      out_VH, out_bias_V: the second, of three numbers a vertex: (3 V, H), (3 V,).
      mean_V3, std: vertices = std * output + mean.
    """

    hidden_HZ: np.ndarray
    hidden_bias_H: np.ndarray
    out_VH: np.ndarray
    out_bias_V: np.ndarray
    mean_V3: np.ndarray
    std: float

    @property
    def width(self) -> int:
        """Numbers of an expression code."""
        return self.hidden_HZ.shape[1]

    def __call__(self, codes_NZ: np.ndarray) -> np.ndarray:
        """(N, Z) -> (N, V, 3) float32. UserError: codes of another width."""
        codes_NZ = np.asarray(codes_NZ, np.float32)
        if codes_NZ.shape[-1] != self.width:
            raise UserError("face codes of another width than the avatar's", where="--geometry",
                            expected=str(self.width), found=str(codes_NZ.shape[-1]),
                            hint="give the decoder of the faces that the model was trained on")
        hidden_NH = codes_NZ @ self.hidden_HZ.T + self.hidden_bias_H
        out_NV = np.maximum(hidden_NH, LEAK * hidden_NH) @ self.out_VH.T + self.out_bias_V
        return out_NV.reshape(len(codes_NZ), -1, 3) * np.float32(self.std) + self.mean_V3

    def chunks(self, codes_NZ: np.ndarray) -> Iterator[np.ndarray]:
        """The same, some frames at a time: an hour of vertices is 9 GB."""
        for first in range(0, len(codes_NZ), _AT_ONCE):
            yield self(codes_NZ[first:first + _AT_ONCE])

    def only(self, vertices) -> "CodecAvatar":
        """The avatar of some of its vertices, in this order. UserError: there is no such vertex."""
        vertices = np.asarray(vertices, np.int64)
        if vertices.size and not 0 <= vertices.min() <= vertices.max() < len(self.mean_V3):
            raise UserError("no such vertex", where="--lip_vertices",
                            expected=f"0 to {len(self.mean_V3) - 1}",
                            found=f"{vertices.min()} to {vertices.max()}")
        rows = (3 * vertices[:, None] + np.arange(3)).ravel()
        return dataclasses.replace(self, out_VH=self.out_VH[rows],
                                   out_bias_V=self.out_bias_V[rows],
                                   mean_V3=self.mean_V3[vertices])


def from_file(path: str | os.PathLike, mean_V3: np.ndarray, variance: float) -> CodecAvatar:
    """Of a published decoder's file (dec_params.pt). UserError lists what is missing or does not
    fit."""
    return from_state_dict(read_state_dict(path), mean_V3, variance, where=os.fspath(path))


def from_state_dict(state: Mapping[str, np.ndarray], mean_V3: np.ndarray, variance: float,
                    where: str = "") -> CodecAvatar:
    """Of arrays under published names: {layer}.weight_v (out, in), .weight_g (out, 1), .bias; older
    files call the first two `weight` and `g`."""
    mean_V3, found, wrong = np.asarray(mean_V3, np.float32), {}, []
    known = {}
    for layer in LAYERS:
        for part, older in (("weight_v", "weight"), ("weight_g", "g"), ("bias", "bias")):
            name = next((n for n in (f"{layer}.{part}", f"{layer}.{older}") if n in state), None)
            if name is None:
                wrong.append(f"{layer}.{part} is missing")
                continue
            known[name] = None
            found[layer, part] = np.asarray(state[name], np.float32)
    extra = sorted(n for n in state if n.partition(".")[0] in ("encmod", "geommod")
                   and n not in known)
    wrong += [f"{name} {np.shape(state[name])} is not known" for name in extra]
    hidden = len(found.get((LAYERS[0], "weight_v"), ()))
    for layer, out, inside in ((LAYERS[0], hidden, None), (LAYERS[1], mean_V3.size, hidden)):
        shapes = {"weight_v": (out, inside), "weight_g": (out, 1), "bias": (out,)}
        for part, shape in shapes.items():
            array = found.get((layer, part))
            if array is not None and part == "weight_g" and array.shape == (out,):
                found[layer, part] = array = array[:, None]
            if array is not None and not (array.ndim == len(shape) and all(
                    e in (None, s) for e, s in zip(shape, array.shape, strict=True))):
                said = tuple("any" if e is None else e for e in shape)
                wrong.append(f"{layer}.{part} {array.shape} should be {said}")
    if wrong or mean_V3.ndim != 2 or mean_V3.shape[1] != 3:
        raise UserError("not this avatar's decoder", where=where,
                        expected=f"{' and '.join(LAYERS)} with weight norm, of "
                                 f"{len(mean_V3)} vertices as in the mean face",
                        found="; ".join(wrong) or f"a mean face {mean_V3.shape}",
                        hint="give dec_params.pt, vert_mean.bin and vert_var.txt of one avatar")
    if not np.isfinite(variance) or variance <= 0:
        raise UserError("no variance of vertices", where=where, expected="a number above 0",
                        found=str(variance), hint="fetch vert_var.txt again")
    (hidden_HZ, hidden_bias), (out_VH, out_bias) = (
        (folded(found[n, "weight_v"], found[n, "weight_g"]), found[n, "bias"]) for n in LAYERS)
    return CodecAvatar(hidden_HZ, hidden_bias, out_VH, out_bias, mean_V3, float(variance) ** 0.5)


def folded(v_OI: np.ndarray, g_O1: np.ndarray) -> np.ndarray:
    """(O, I): g * v over the norm of all of v."""
    return (g_O1 * (v_OI / np.sqrt(np.sum(np.square(v_OI, dtype=np.float64)))).astype(np.float32))
