"""The published unit Voicebox (naver-ai/xlsr-token-Voicebox) -> parameters of the acoustic denoiser
with block "usdm".

Published layouts: a Linear's weight is (out, in), a Conv1d's (out, in / groups, kernel); names
begin with "estimator.". The positional convolutions are weight-normed with one magnitude a tap.
"""

import numpy as np

from avjax.errors import UserError
from avjax.weights.fold import fold_weight_norm
from avjax.weights.names import gather

PREFIX = "estimator."


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


def import_usdm(state: dict[str, np.ndarray], config, fresh: dict | None = None) -> dict:
    """Published names -> our parameters, float32.

    `fresh`: `System(config).init(key)`, needed where the config has a voice or partners, which the
    published network has not; these are taken from it and change nothing until they are trained.
    UserError: an entry missing, left over or of another size.
    """
    params = gather({name: np.asarray(value, np.float32) for name, value in _own(state).items()},
                    _rows(config))
    if config.voice_dim or config.partner:
        if fresh is None:
            raise UserError("the published weights have no voice and no partners",
                            where="import_usdm",
                            expected="fresh parameters of the config for those",
                            hint="pass fresh=System(config).init(key), or set voice_dim = 0 and "
                            "partner = False")
        params |= {"voice": fresh["voice"]} if config.voice_dim else {}
        if config.partner:
            params["inputs"]["partner"] = fresh["inputs"]["partner"]
    return params


def _own(state):
    return fold_weight_norm({name.removeprefix(PREFIX): np.asarray(value) for name,
                             value in state.items()})


def _rows(config):
    """(published names, our path, (to ours, None), layer): see avjax.weights.names."""
    heads = config.num_heads
    half = config.num_layers // 2

    def same(x):
        return x

    def matrix(w):  # Linear, or Conv1d of kernel 1
        return w.reshape(w.shape[:2]).T

    def conv(w):
        return w.transpose(2, 1, 0)

    def by_head(x):
        return (x.T if x.ndim == 2 else x).reshape(*x.shape[1:], heads, -1)

    rows = [("embed.weight", "inputs/embedding", same, None)]

    def linear(theirs, ours, layer=None, kernel=matrix, bias=same, names=("kernel", "bias")):
        rows.append((f"{theirs}.weight", f"{ours}/{names[0]}", kernel, layer))
        rows.append((f"{theirs}.bias", f"{ours}/{names[1]}", bias, layer))

    linear("proj_in", "inputs/project")
    linear("proj_out", "outputs")
    linear("layer_norm", "norm", kernel=same, names=("scale", "bias"))
    for i in range(config.position_depth):
        linear(f"pos_conv_embeds.{i}.conv", f"positions/convs_{i}", kernel=conv)
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
            linear(f"{theirs}.{name}", f"{ours}/{norm}", layer, same, names=("scale", "bias"))
    for i in range(half):
        linear(f"skip_connections_layers.{i}", "up/skip", i)
    return [((theirs,), ours, (to_ours, None), layer) for theirs, ours, to_ours, layer in rows]
