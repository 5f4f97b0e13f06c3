"""Published BigVGAN trainings <-> our parameters: one name table, both directions.

A training writes two files: g_<step> with {"generator"}, do_<step> with {"mpd", "mrd"}, where "mrd"
holds whichever discriminator stands beside the periods'. Here they are one state dict, whose names
begin with "generator.", "mpd." and "mrd.". Published layouts: Conv1d (out, in, k), ConvTranspose1d
(in, out, k), Conv2d (out, in, k, k); the norm has the weight's rank. Filters and transforms that
the files carry are computed here, and written on export.
"""

import json
import os
import re

import jax
import numpy as np

from avjax.codecs import bigvgan, bigvgan_network
from avjax.codecs.published.bigvgan import FILTERS, arrays_hash, bigvgan_sizes
from avjax.errors import UserError
from avjax.sharding.rules import named_leaves
from avjax.signal import mel
from avjax.systems.vocoder import cqt, discriminators, generator
from avjax.systems.vocoder.config import SPECTRAL
from avjax.weights.fold import put
from avjax.weights.published import Published, State
from avjax.weights.reader import read_checkpoint, read_state_dict

# (of theirs, of ours): the last number of each pair is a layer's
RENAMED = ((r"ups\.(\d+)\.0\.", r"ups_\1/"),
           (r"band_convs\.(\d+)\.(\d+)\.", r"band_convs_\1_\2/"),
           (r"(resblocks|discriminators|convs|convs1|convs2|conv_pres|activations)\.(\d+)\.",
            r"\1_\2/"),
           (r"(conv_pre|conv_post|activation_post)\.", r"\1/"), (r"act\.(alpha|beta)$", r"\1"),
           (r"weight_g$", "scale"), (r"weight_v$", "direction"), (r"weight$", "kernel"))
COMPUTED = re.compile(rf"{FILTERS}|.*\.(cqt_transform\.\w+|resample\.kernel|"
                      r"spec_fn\.window)")
PYTORCH_2 = (("parametrizations.weight.original0", "weight_g"),
             ("parametrizations.weight.original1", "weight_v"))
# what the published code calls its file, and the one of the discriminators beside it
BESIDE = ((r"g_(\d+)", r"do_\1"), (r"bigvgan_generator\.pt",
                                   "bigvgan_discriminator_optimizer.pt"))


def opened(path: str) -> State:
    """A generator's file, and where the discriminators' lies beside it theirs, under whole names.
    UserError: neither a generator nor discriminators."""
    state = _part(path, ("generator", "mpd", "mrd"))
    folder, name = os.path.split(os.fspath(path))
    for ours, theirs in BESIDE:
        if match := re.fullmatch(ours, name):
            other = os.path.join(folder, match.expand(theirs))
            if os.path.isfile(other):
                state |= _part(other, ("mpd", "mrd"))
    return state


def _part(path: str, parts: tuple[str, ...]) -> State:
    """{"<part>.<name>": array} of a file; a bare generator's too."""
    tree = read_checkpoint(path, foreign=True)
    tree = tree if isinstance(tree, dict) else {}
    state = {}
    for part in parts:
        if part in tree or any(name.startswith(f"{part}.") for name in tree):
            state |= {f"{part}.{n}": x for n, x in read_state_dict(path, part).items()}
    if not state and any(name.startswith("conv_pre.") for name in tree):
        state = {f"generator.{n}": x for n, x in read_state_dict(path).items()}
    if not state:
        raise UserError("not a file of a BigVGAN's training", where=path,
                        expected=" or ".join(parts), found=", ".join(list(tree)[:4]) or "nothing")
    return state


def second(config) -> str | None:
    """The discriminator that the published code calls "mrd"."""
    return next((name for name in config.discriminators if name in SPECTRAL), None)


def read(state: State, config) -> dict:
    """Published names -> our parameters; entries that are absent as a whole are left out. A folded
    generator's weights become directions of their own norm."""
    params: dict = {}
    for name, value in state.items():
        for theirs, ours in PYTORCH_2:
            name = name.replace(theirs, ours)
        part, _, rest = name.partition(".")
        if COMPUTED.fullmatch(name):
            continue
        part = second(config) if part == "mrd" else part
        if part is None:
            raise UserError("the file has a discriminator that the config has not", where=name,
                            expected="one of " + ", ".join(SPECTRAL),
                            found=", ".join(config.discriminators) or "none")
        put(params, f"{part}/{_ours(rest)}", np.asarray(value, np.float32))
    return {part: _each_layer(layers, part, "", _to_ours) for part, layers in params.items()}


def write(params, config) -> State:
    """Our parameters -> published names, with the filters that the published code looks for."""
    state = {}
    for part, layers in params.items():
        theirs = "mrd" if part in SPECTRAL else part
        for name, value in named_leaves(_each_layer(layers, part, "", _to_theirs)):
            state[f"{theirs}.{_theirs(name)}"] = np.ascontiguousarray(value)
    activations = {name.rpartition(".act.")[0] for name in state if ".act." in name}
    filter_11D = bigvgan_network.kaiser_sinc()[None, None]
    for name in sorted(activations):
        state |= {f"{name}.upsample.filter": filter_11D,
                  f"{name}.downsample.lowpass.filter": filter_11D}
    for i, window in enumerate(config.band_windows if "mbd" in params else ()):
        state[f"mrd.discriminators.{i}.spec_fn.window"] = mel.window_of(window)
    for i, transform in enumerate(discriminators.transforms(config) if "cqtd" in params else ()):
        state |= {f"mrd.discriminators.{i}.{name}": value
                  for name, value in cqt.buffers(transform).items()}
    return state


def _ours(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _theirs(name: str) -> str:
    name = re.sub(r"(scale|direction|kernel)$", lambda match: {
        "scale": "weight_g", "direction": "weight_v", "kernel": "weight"}[match[1]], name)
    name = re.sub(r"^ups_(\d+)/", r"ups.\1.0.", name)
    return re.sub(r"_(\d+)(?=[/_.])", r".\1", name).replace("/", ".").replace(
        ".alpha", ".act.alpha").replace(".beta", ".act.beta")


def _each_layer(tree: dict, part: str, name: str, change) -> dict:
    """`change` of every dict of arrays."""
    if not any(isinstance(value, dict) for value in tree.values()):
        return change(tree, part, name)
    return {key: _each_layer(value, part, key, change) for key, value in tree.items()}


def _to_ours(layer: dict, part: str, name: str) -> dict:
    normed = "scale" in layer
    weight = layer.get("direction", layer.get("kernel"))
    if weight is None:  # an activation
        return layer
    if part == "generator" and not normed:
        axes = tuple(range(1, weight.ndim))
        layer = {"direction": weight, "scale": np.sqrt(np.sum(weight**2, axes))} | {
            k: v for k, v in layer.items() if k == "bias"}
    if not name.startswith("ups_"):
        weight = np.moveaxis(weight, (0, 1), (-1, -2))
    kind = "direction" if "direction" in layer else "kernel"
    return layer | {kind: np.ascontiguousarray(weight)} | (
        {"scale": layer["scale"].reshape(-1)} if "scale" in layer else {})


def _to_theirs(layer: dict, part: str, name: str) -> dict:
    kind = next((k for k in ("direction", "kernel") if k in layer), None)
    if kind is None:
        return layer
    weight = np.asarray(layer[kind])
    if not name.startswith("ups_"):
        weight = np.moveaxis(weight, (-1, -2), (0, 1))
    layer = dict(layer) | {kind: weight}
    if "scale" in layer:
        layer["scale"] = np.asarray(layer["scale"]).reshape(-1, *[1] * (weight.ndim - 1))
    return layer


def sizes(state: State, config) -> dict:
    """Fields of the config that the shapes show: the generator's as avjax.codecs.bigvgan finds
    them; which discriminators there are, and their widths. UserError: another network's weights."""
    own = {n.removeprefix("generator."): x for n, x in state.items()
           if n.startswith("generator.")}
    found = bigvgan_sizes(own)
    known = {"bands": "num_mels", "channels": "upsample_initial_channel",
             "rates": "upsample_rates", "kernels": "upsample_kernel_sizes",
             "block_kernels": "resblock_kernel_sizes", "tanh": "use_tanh_at_final"}
    changed = {ours: tuple(v) if isinstance(v := found[theirs], list) else v
               for ours, theirs in known.items()}
    changed["dilations"] = tuple(map(tuple, found["resblock_dilation_sizes"]))
    if "conv_post.bias" not in own:  # version 2's losses
        changed |= {"discriminators": ("mpd", "cqtd"), "mel_scales": "seven", "mel_weight": 15.0}
    first = {n: x.shape for n, x in state.items() if n.startswith(("mpd.", "mrd.discriminators.0."))
             and n.endswith(("weight_v", "original1", "convs.0.weight"))}
    for name, shape in first.items():
        if re.match(r"mpd\.discriminators\.0\.convs\.0\.", name):
            changed["width"] = shape[0]
        elif re.match(r"mrd\.discriminators\.0\.convs\.0\.", name):
            changed |= ({"discriminators": ("mpd", "cqtd"), "octave_width": shape[0]}
                        if name.endswith(".weight") else {"discriminators": ("mpd", "mrd")})
        elif re.match(r"mrd\.discriminators\.0\.band_convs\.0\.0\.", name):
            changed |= {"discriminators": ("mpd", "mbd"), "band_width": shape[0]}
    return changed


def file(state: State, step: int) -> dict:
    """{"generator": ...} as the published training saves it, and the discriminators' "mpd" and
    "mrd", which it does not look for there."""
    tree: dict = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        tree.setdefault(part, {})[rest] = value
    return tree | {"steps": step}


def described(config) -> dict[str, str]:
    """The config.json that the published code, and `--vocoder`, read beside a generator's file."""
    c, tanh = config, bool(config.tanh)
    return {"config.json": json.dumps({
        "resblock": "1", "upsample_rates": list(c.rates), "upsample_kernel_sizes": list(c.kernels),
        "upsample_initial_channel": c.channels, "resblock_kernel_sizes": list(c.block_kernels),
        "resblock_dilation_sizes": [list(d) for d in c.dilations], "activation": "snakebeta",
        "snake_logscale": bool(c.log_scale), "use_tanh_at_final": tanh, "use_bias_at_final": tanh,
        "num_mels": c.bands, "n_fft": c.n_fft, "win_size": c.n_fft,
        "hop_size": int(np.prod(c.rates)), "sampling_rate": c.sample_rate, "fmin": 0,
        "fmax": c.fmax, "fmax_for_loss": None, "segment_size": 8192}, indent=1)}


def vocoder(config, params) -> bigvgan.BigVGAN:
    """What makes sound of mel by a generator of ours."""
    net = generator.network(config)
    folded = jax.device_get(generator.folded(net, params["generator"]))
    return bigvgan.BigVGAN(net, folded, generator.mel_recipe(config), arrays_hash(folded))


PUBLISHED = Published("vocoder", read, write, sizes, file, opened, described)
