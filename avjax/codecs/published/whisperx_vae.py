"""WhisperX-VAE's published file -> parameters of avjax/codecs/whisperx_vae.py and the arrays of the
Whisper that it holds."""

import re

import numpy as np

from avjax.codecs.whisperx_vae import DIM, HOP, WhisperXVAEConfig
from avjax.errors import UserError
from avjax.weights import names
from avjax.weights.fold import fold_weight_norm

WHISPER = "semantic_model."
DECODER = ("CodecDec.", "vae.out_proj.")  # what makes sound
OWN = (*DECODER, "CodecEnc.", "vae.in_proj.")
_WHAT = "these are not the weights of a WhisperX-VAE"


def split(state: dict[str, np.ndarray]) -> tuple[dict, dict]:
    """The autoencoder's arrays, float32 with weight norm folded, and Whisper's; {} where the file
    has none. What else a training leaves in its checkpoint (discriminators) is left out."""
    own = {n: np.asarray(x, np.float32) for n, x in state.items() if n.startswith(OWN)}
    whisper = {n.removeprefix(WHISPER): x for n, x in state.items() if n.startswith(WHISPER)}
    return fold_weight_norm(own), whisper


def config_of(params: dict[str, np.ndarray], where: str = "") -> WhisperXVAEConfig:
    """Strides are half of the kernels. UserError: arrays that are missing, left over or of another
    shape, all listed; or frames of another length than 960 samples or 32 numbers."""
    down = _strides(params, r"CodecEnc\.block\.(\d+)\.block\.4\.weight")
    up = _strides(params, r"CodecDec\.model\.(\d+)\.block\.1\.weight")
    if not down or not up:
        raise UserError(_WHAT, where=where, expected="CodecEnc, CodecDec and vae",
                        found=", ".join(list(params)[:4]) or "none of them",
                        hint="give the audio codec's own file")
    config = WhisperXVAEConfig(down, up)
    names.check_arrays({n: x.shape for n, x in params.items()}, expected(params, config), _WHAT,
                       where=where, hint="check which model the file is of")
    hops, width = (int(np.prod(down)), int(np.prod(up))), params["vae.out_proj.weight"].shape[1]
    if hops != (HOP, HOP) or width != DIM:
        raise UserError("an audio codec of other frames", where=where,
                        expected=f"{DIM} numbers every {HOP} samples",
                        found=f"{width} every {hops[0]} in and {hops[1]} out")
    return config


def _strides(params: dict, pattern: str) -> tuple[int, ...]:
    found = {int(match[1]): x.shape[-1] // 2 for n, x in params.items()
             if (match := re.fullmatch(pattern, n))}
    return tuple(found[i] for i in sorted(found))


def expected(params: dict, config: WhisperXVAEConfig, *,
             decoder_only: bool = False) -> dict[str, names.Shape]:
    """{name: shape} of a network as wide as the first layers of these parameters."""
    def width(name, axis):
        shape = params[name].shape if name in params else ()
        return shape[axis] if axis < len(shape) else 0

    latent = width("vae.out_proj.weight", 1)
    into = out = width("CodecDec.model.0.weight", 0)
    rows = {"vae.out_proj": _conv(width("vae.out_proj.weight", 0), latent, 1),
            "CodecDec.model.0": _conv(out, width("vae.out_proj.weight", 0), 7)}
    for i, stride in enumerate(config.up, 1):
        into, out, block = out, out // 2, f"CodecDec.model.{i}.block"
        rows |= {f"{block}.0": {"alpha": (1, into, 1)},
                 f"{block}.1": {"weight": (into, out, 2 * stride), "bias": (out,)}}
        rows |= {k: v for j in (2, 3, 4) for k, v in _residual(f"{block}.{j}", out).items()}
    last = len(config.up) + 1
    rows |= {f"CodecDec.model.{last}": {"alpha": (1, out, 1)},
             f"CodecDec.model.{last + 1}": _conv(1, out, 7)}
    if not decoder_only:
        wide = width("vae.in_proj.weight", 1)
        out = width("CodecEnc.block.0.weight", 0)
        rows |= {"CodecEnc.block.0": _conv(out, 1, 7)}
        for i, stride in enumerate(config.down, 1):
            into, out, block = out, 2 * out, f"CodecEnc.block.{i}.block"
            rows |= {k: v for j in (0, 1, 2) for k, v in _residual(f"{block}.{j}", into).items()}
            rows |= {f"{block}.3": {"alpha": (1, into, 1)},
                     f"{block}.4": _conv(out, into, 2 * stride)}
        last = len(config.down) + 1
        rows |= {f"CodecEnc.block.{last}": {"alpha": (1, out, 1)},
                 f"CodecEnc.block.{last + 1}": _conv(wide, out, 3),
                 "vae.in_proj": _conv(2 * latent, wide, 1)}
    return {f"{module}.{kind}": shape for module, kinds in rows.items()
            for kind, shape in kinds.items()}


def _conv(out: int, into: int, kernel: int) -> dict:
    return {"weight": (out, into, kernel), "bias": (out,)}


def _residual(name: str, width: int) -> dict:
    return {f"{name}.block.0": {"alpha": (1, width, 1)}, f"{name}.block.1": _conv(width, width, 7),
            f"{name}.block.2": {"alpha": (1, width, 1)}, f"{name}.block.3": _conv(width, width, 1)}
