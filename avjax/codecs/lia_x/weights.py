"""LIA-X's published state dict -> parameters of network.py, under the same names.

Published layouts: Conv2d (out, in, k, k), modulated convolution (1, out, in, k, k), Linear
(out, in). Weights there are of about unit variance and scaled at run time. `*.kernel` buffers are
the taps of the blurs, which are computed here.
"""

import re
from collections.abc import Mapping

import numpy as np

from avjax.codecs.lia_x import network
from avjax.codecs.lia_x.layers import TAPS
from avjax.errors import UserError
from avjax.weights import names

WHAT = "these are not the weights of LIA-X"
HINT = "use the file of LIA-X that Talker-T2AV's release names"


def prepared(state: Mapping[str, np.ndarray], where: str = "") -> dict[str, np.ndarray]:
    """{published name: array} -> parameters, float32: kernels (k, k, in, out) and matrices
    (in, out) with their scale 1 / sqrt(fan-in), and dec.direction.Q, the orthonormal directions.

    Raises UserError that lists entries missing, left over or of another shape than the network's,
    whose widths are the state dict's own.
    """
    state = {name: np.asarray(x) for name, x in state.items()}
    taps = {name: x for name, x in state.items() if name.endswith(".kernel")}
    state = {name: x for name, x in state.items() if name not in taps}
    names.check_arrays({name: x.shape for name, x in state.items()}, shapes(state, where), WHAT,
                       where=where, hint=HINT)
    _check_taps(taps, where)
    out = {name: laid_out(name, x.astype(np.float32)) for name, x in state.items()}
    return out | {"dec.direction.Q": directions(state["dec.direction.weight"])}


def laid_out(name: str, array: np.ndarray) -> np.ndarray:
    """One entry of the state dict as the layers take it."""
    if name.endswith(("direction.weight", "norm.weight")):
        return array
    if name.endswith(".weight") or name == "weight":
        array = array[0] if array.ndim == 5 else array
        array = array / np.float32(np.sqrt(np.prod(array.shape[1:])))
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T)
    if array.ndim == 4:  # one number a channel, and the constant that the decoder starts from
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    return array


def directions(weight_SM: np.ndarray) -> np.ndarray:
    """Q (S, 40) of the reduced QR, with the signs that LAPACK's Householder reflections give."""
    return np.linalg.qr(weight_SM.astype(np.float32) + np.float32(1e-8))[0]


def shapes(state: Mapping[str, np.ndarray], where: str = "") -> dict[str, tuple[int, ...]]:
    """{published name: shape} of a network as wide as this one. UserError where its widths cannot
    be told, or motion has not 40 numbers."""
    ends = [f"enc.enc_2r.block{n}.0.{'' if n == 1 else 'conv2.1.'}weight" for n in range(1, 8)]
    last = "enc.enc_2r.block8.weight"
    lacking = [n for n in (*ends, last) if np.ndim(state.get(n)) != 4]
    if lacking:
        raise UserError(WHAT, where=where, expected=", ".join(names.together(lacking)),
                        found=", ".join(sorted(state)[:4]) or "nothing", hint=HINT)
    fine = [state[name].shape[0] for name in ends]  # of 512, 256, ... 8 pixels
    style, out = state[last].shape[0], {}
    out |= _conv("enc.enc_2r.block1", 3, fine[0], 1)
    for n, (a, b) in enumerate(zip(fine, (*fine[1:], fine[-1]), strict=True), 2):
        name = f"enc.enc_2r.block{n}.0" if n <= network.HALVINGS else "enc.enc_2r.block_512"
        out |= _conv(f"{name}.conv1", a, b, 3) | _conv(f"{name}.conv2", b, b, 3, at=1)
        out[f"{name}.skip.1.weight"] = (b, a, 1, 1)
    out |= {last: (style, fine[-1], 4, 4), "enc.enc_r2t.0.weight": (network.MOTION, style),
            "enc.enc_r2t.0.bias": (network.MOTION,),
            "dec.direction.weight": (style, network.MOTION),
            "dec.input.input": (1, fine[-1], 4, 4)}
    out |= _styled("dec.conv1", fine[-1], fine[-1], style)
    before = fine[-1]
    for (name, flow, rgb), width in zip(network.LEVELS, fine[::-1], strict=True):
        out |= _styled(f"dec.{name}_1", before, width, style)
        for n in range(network.DEPTH):
            block = f"dec.{name}_2.{n}"
            out |= {f"{block}.gamma": (1, width, 1, 1), f"{block}.norm.weight": (width,),
                    f"{block}.norm.bias": (width,)}
            out |= _styled(f"{block}.conv1", width, width, style)
            out |= _styled(f"{block}.conv2", width, width, style)
            for conv in ("conv1", "conv2"):
                out |= _conv(f"dec.{name}_2_rgb.{n}.{conv}", width, width, 3)
        if name != network.LEVELS[0][0]:
            out |= _conv(f"dec.{name}_2_up", before, width, 3, at=1)
        out |= _conv(f"dec.{rgb}.conv", width, 3, 1) | {f"dec.{rgb}.bias": (1, 3, 1, 1)}
        out |= _modulated(f"dec.{flow}.conv", width, 3, 1, style)
        out[f"dec.{flow}.bias"] = (1, 3, 1, 1)
        before = width
    return out


def _conv(name: str, a: int, b: int, k: int, at: int = 0) -> dict:
    return {f"{name}.{at}.weight": (b, a, k, k), f"{name}.{at + 1}.bias": (b,)}


def _modulated(name: str, a: int, b: int, k: int, style: int) -> dict:
    return {f"{name}.weight": (1, b, a, k, k), f"{name}.modulation.weight": (a, style),
            f"{name}.modulation.bias": (a,)}


def _styled(name: str, a: int, b: int, style: int) -> dict:
    return _modulated(f"{name}.conv", a, b, 3, style) | {f"{name}.activate.bias": (b,)}


def _check_taps(taps: Mapping[str, np.ndarray], where: str) -> None:
    """UserError for blurs of other taps than ours. Those that enlarge have gain 4."""
    plain = np.outer(TAPS, TAPS) / sum(TAPS)**2
    for name, found in taps.items():
        gain = 4 if re.search(r"(\.up|_up\.0|\.blur)\.kernel$", name) else 1
        if found.shape != plain.shape or not np.allclose(found, gain * plain, atol=1e-6):
            raise UserError("a blur of other taps", where=f"{where}: {name}".removeprefix(": "),
                            expected=f"{gain} / 64 of 1, 3, 3, 1 along both axes",
                            found=np.array2string(found, precision=3).replace("\n", ""), hint=HINT)
