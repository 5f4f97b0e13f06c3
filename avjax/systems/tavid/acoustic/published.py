"""The published unit Voicebox (naver-ai/xlsr-token-Voicebox) <-> parameters of the acoustic
denoiser with block "usdm": one name table, both directions.

Published layouts: a Linear's weight is (out, in), a Conv1d's (out, in / groups, kernel); names
begin with "estimator.". The positional convolutions are weight-normed with one magnitude a tap:
folded on import, split on export, so that what was exported comes back to the bit, while the
magnitudes and directions of another file come back as the same weights.
"""

import re

import numpy as np

from avjax.errors import UserError
from avjax.weights.fold import fold_weight_norm
from avjax.weights.layouts import as_is, transposed
from avjax.weights.names import gather, scatter
from avjax.weights.published import Published

PREFIX = "estimator."
ADDED = (r"voice/.*", r"inputs/partner/.*")  # ours, which the published network has not
_NORMED = re.compile(r"(pos_conv_embeds\.\d+\.conv\.)weight")

kernel = (lambda w: w.transpose(2, 1, 0),) * 2  # (out, in, k) <-> (k, in, out)
point = (lambda w: w[:, :, 0].T, lambda k: k.T[:, :, None])  # (out, in, 1) <-> (in, out)


def usdm_sizes(state: dict[str, np.ndarray]) -> dict[str, int]:
    """Config fields that the weights show; num_heads is not among them (published: 16). UserError:
    other weights."""
    state = _own(state)
    try:
        rows, unit_dim = state["embed.weight"].shape
        kernel = state["pos_conv_embeds.0.conv.weight"].shape
        width = state["proj_in.weight"].shape[0]
        return {"num_units": rows - 1, "unit_dim": unit_dim, "d_model": width,
                "mel_dim": state["proj_out.weight"].shape[0],
                "d_ff": state["layers.0.feed_forward.intermediate_dense.weight"].shape[0],
                "num_layers": sum(name.endswith(".attention.q_proj.weight") for name in state),
                "position_kernel": kernel[2], "position_groups": width // kernel[1],
                "position_depth": sum(name.startswith("pos_conv_embeds.")
                                      and name.endswith("weight") for name in state)}
    except KeyError as error:
        raise UserError("these are not the weights of USDM's Voicebox",
                        expected=f"an entry {PREFIX}{error.args[0]}",
                        found=", ".join(sorted(state)[:3]),
                        hint="check which model the file is of") from error


def import_usdm(state: dict[str, np.ndarray], config) -> dict:
    """Published names -> our parameters, float32; without those of ADDED, which change nothing
    until they are trained. UserError: an entry missing, left over or of another size, or a config
    of the other block."""
    _check_block(config)
    return gather({name: np.asarray(value, np.float32) for name, value in _own(state).items()},
                  _rows(config))


def export_usdm(params, config) -> dict[str, np.ndarray]:
    """The inverse of `import_usdm`. UserError: a config of the other block, or with conditions that
    the published network has not."""
    _check_block(config)
    if config.voice_dim or config.partner:
        raise UserError("the published Voicebox has no voice and no partners",
                        where="config.system", expected="voice_dim 0, partner False",
                        found=f"voice_dim {config.voice_dim}, partner {config.partner}",
                        hint="its weights alone would be another model's; use the Orbax "
                             "checkpoint as it is")
    out = {}
    for name, value in scatter(params, _rows(config)).items():
        if match := _NORMED.fullmatch(name):
            norm = np.sqrt(np.sum(np.square(value, dtype=np.float64), (0, 1), keepdims=True))
            pair = f"{PREFIX}{match[1]}parametrizations.weight.original"
            out |= {f"{pair}0": norm.astype(value.dtype), f"{pair}1": value}
        else:
            out[PREFIX + name] = value
    return out


def _check_block(config) -> None:
    if config.block != "usdm":
        raise UserError("the published Voicebox is another network than the DiT",
                        where="config.system.block", expected="usdm", found=config.block,
                        hint="import with --config=configs/tavid.py:voicebox")


def _own(state):
    return fold_weight_norm({name.removeprefix(PREFIX): np.asarray(value) for name,
                             value in state.items()})


def _by_head(heads: int) -> tuple:
    """(H K, D) <-> (D, H, K); a bias (H K,) <-> (H, K)."""
    return (lambda x: (x.T if x.ndim == 2 else x).reshape(*x.shape[1:], heads, -1),
            lambda x: x.reshape(*x.shape[:-2], -1).T)


def _rows(config):
    """(published names, our path, (to ours, to theirs), layer): see avjax.weights.names."""
    half = config.num_layers // 2
    by_head = _by_head(config.num_heads)
    rows = [(("embed.weight",), "inputs/embedding", as_is, None)]

    def linear(theirs, ours, layer=None, weight=transposed, bias=as_is,
               names=("kernel", "bias")):
        rows.append(((f"{theirs}.weight",), f"{ours}/{names[0]}", weight, layer))
        rows.append(((f"{theirs}.bias",), f"{ours}/{names[1]}", bias, layer))

    linear("proj_in", "inputs/project", weight=point)
    linear("proj_out", "outputs", weight=point)
    linear("layer_norm", "norm", weight=as_is, names=("scale", "bias"))
    for i in range(config.position_depth):
        linear(f"pos_conv_embeds.{i}.conv", f"positions/convs_{i}", weight=kernel)
    for i in range(config.num_layers):
        theirs = f"layers.{i}"
        ours = "down" if i < half else "up"
        layer = i % half
        for short, name in (("q", "query"), ("k", "key"), ("v", "value")):
            linear(f"{theirs}.attention.{short}_proj", f"{ours}/{name}", layer, by_head, by_head)
        linear(f"{theirs}.attention.out_proj", f"{ours}/project", layer)
        linear(f"{theirs}.feed_forward.intermediate_dense", f"{ours}/mlp_in", layer)
        linear(f"{theirs}.feed_forward.output_dense", f"{ours}/mlp_out", layer)
        for name, norm in (("layer_norm", "attention_norm"), ("final_layer_norm", "mlp_norm")):
            linear(f"{theirs}.{name}", f"{ours}/{norm}", layer, as_is, names=("scale", "bias"))
    for i in range(half):
        linear(f"skip_connections_layers.{i}", "up/skip", i)
    return rows


PUBLISHED = Published(
    experiment="tavid:voicebox",
    read=import_usdm,
    write=export_usdm,
    sizes=lambda state, config: usdm_sizes(state) | {"voice_dim": 0, "partner": False},
    fresh=lambda config: ADDED,
)
