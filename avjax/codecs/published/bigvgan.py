"""Published BigVGAN generators -> parameters of avjax.codecs.bigvgan: weight norm folded,
transposed convolutions polyphase.

Published layouts: Conv1d (out, in, kernel), ConvTranspose1d (in, out, kernel). The anti-aliasing
filters in the file are
left out: they are computed.
"""

import hashlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from avjax.errors import UserError
from avjax.weights import names
from avjax.weights.fold import fold_weight_norm, put

RENAMED = (
    (r"^ups\.(\d+)\.0\.", r"ups_\1/"), (r"^resblocks\.(\d+)\.(convs1|convs2|activations)\.(\d+)\.",
                                        r"resblocks_\1/\2_\3/"),
    (r"^(conv_pre|conv_post|activation_post)\.", r"\1/"), (r"act\.(alpha|beta)$", r"\1"),
    (r"weight$", "kernel"))
FILTERS = r".*\.(upsample|downsample\.lowpass)\.filter"
DILATIONS = (1, 3, 5)  # of every published model


def bigvgan_sizes(state: dict[str, np.ndarray], where: str = "") -> dict:
    """config.json as far as the weights show it; rates are taken to be half of
    their kernels, the mel to be that of the 22 kHz, 80-band, 256-hop family. UserError: other
    weights."""
    state = fold_weight_norm(state)
    if "conv_pre.weight" not in state or "ups.0.0.weight" not in state:
        raise UserError("these are not the weights of a BigVGAN generator", where=where,
                        expected="conv_pre and ups.0.0", found=", ".join(list(state)[:4]),
                        hint="use the generator's file, not the discriminators'")
    kernels = [state[f"ups.{i}.0.weight"].shape[2] for i in range(_count(state, r"ups\.(\d+)\..*"))]
    parallel = _count(state, r"resblocks\.(\d+)\..*") // len(kernels)
    # blocks of make 2 have no convs1
    first = [f"resblocks.{j}.convs1.0.weight" for j in range(parallel)]
    blocks = [state[name].shape[2] for name in first if name in state]
    rates = [k // 2 for k in kernels]
    version_1 = "conv_post.bias" in state
    return {"num_mels": state["conv_pre.weight"].shape[1],
            "upsample_initial_channel": state["conv_pre.weight"].shape[0],
            "upsample_kernel_sizes": kernels, "upsample_rates": rates,
            "resblock_kernel_sizes": blocks,
            "resblock_dilation_sizes": [list(DILATIONS)] * parallel, "resblock": "1" if blocks
            else "2", "activation": "snakebeta" if "activation_post.act.beta" in state else "snake",
            "snake_logscale": True, "use_tanh_at_final": version_1, "sampling_rate": 22050,
            "n_fft": 1024, "win_size": 1024,
            "hop_size": int(np.prod(rates)), "fmin": 0, "fmax": 8000}


def import_bigvgan(state: dict[str, np.ndarray], config, where: str = "") -> dict:
    """Published names -> nested parameters, float32. UserError: a layer missing or of another shape
    than the config's."""
    folded = fold_weight_norm({n: np.asarray(v, np.float32) for n, v in state.items()
                               if not re.fullmatch(FILTERS, n)})
    params: dict = {}
    for name, value in folded.items():
        ours = name
        for pattern, replacement in RENAMED:
            ours = re.sub(pattern, replacement, ours)
        if "." in ours:
            raise UserError("these are not the weights of a BigVGAN generator", where=where,
                            found=f"an entry {name}")
        if ours.endswith("kernel"):
            up = re.match(r"ups_(\d+)/", ours)
            value = polyphase(value, config.rates[int(up[1])]) if up else value.transpose(2, 1, 0)
        put(params, ours, np.ascontiguousarray(value))
    _check(params, config, where)
    return params


def polyphase(weight: np.ndarray, rate: int) -> np.ndarray:
    """Transposed convolution (in, out, kernel) -> (taps, in, rate * out): the kernel of a plain
    convolution whose outputs are the `rate` samples of each step, taps = ceil(kernel / rate).
    numpy in, numpy out; JAX in, JAX out (pure)."""
    xp = jnp if isinstance(weight, jax.Array) else np
    size_in, size_out, kernel = weight.shape
    weight = xp.pad(weight,
                    ((0, 0), (0, 0), (0, -kernel % rate))).reshape(size_in, size_out, -1, rate)
    return weight[:, :, ::-1].transpose(2, 0, 3, 1).reshape(-1, size_in, rate * size_out)


def flat(params: dict, prefix: str = "") -> dict:
    """Nested parameters -> {"a/b/c": array}."""
    out = {}
    for name, value in params.items():
        inner = isinstance(value, dict)
        out |= flat(value, f"{prefix}{name}/") if inner else {prefix + name: value}
    return out


def nested(arrays: dict[str, np.ndarray]) -> dict:
    """The inverse of `flat`."""
    params: dict = {}
    for name, value in arrays.items():
        put(params, name, value)
    return params


def arrays_hash(params: dict) -> str:
    """16 hex digits over names, shapes and contents."""
    digest = hashlib.sha256()
    for name, value in sorted(flat(params).items()):
        digest.update(f"{name} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]


def _count(state, pattern: str) -> int:
    return 1 + max((int(match[1]) for name in state if (match := re.fullmatch(pattern, name))),
                   default=-1)


def _check(params: dict, config, where: str) -> None:
    """Every kernel there, and of the config's shape."""
    last = config.channels >> len(config.rates)
    expected = {"conv_pre/kernel": (7, config.bands, config.channels),
                "activation_post/alpha": (last,),
                "conv_post/kernel": (7, last, 1)}
    for i, (rate, kernel) in enumerate(zip(config.rates, config.kernels, strict=True)):
        into, out = config.channels >> i, config.channels >> i + 1
        expected[f"ups_{i}/kernel"] = (-(-kernel // rate), into, rate * out)
        for j, (size, dilations) in enumerate(zip(config.block_kernels, config.dilations,
                                                  strict=True)):
            block = f"resblocks_{i * len(config.block_kernels) + j}"
            for n in range(len(dilations)):
                expected |= {f"{block}/{convs}_{n}/kernel": (size, out, out)
                             for convs in ("convs1", "convs2")}
                expected |= {f"{block}/activations_{2 * n + m}/alpha": (out,) for m in (0, 1)}
    found = {name: value.shape for name, value in flat(params).items()
             if name.endswith(("kernel", "alpha"))}
    names.check_arrays(found, expected, "the vocoder's weights do not fit its config", where=where,
                       hint="use the config.json of these weights")
