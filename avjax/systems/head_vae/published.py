"""Published head VAE state dicts <-> our parameters: one name table, both directions.

Published layouts: a Linear's weight is (out, in); attention's fused projection has all of q, k and
v in turn, (3 D, D), where ours is (D, 3, heads, head width).
"""

import numpy as np

from avjax.errors import UserError
from avjax.weights.layouts import as_is, transposed
from avjax.weights.names import PREFIXED, gather, scatter
from avjax.weights.published import Published

SIZES = {"pose_dim": ("encoder.0.weight", 1), "d_model": ("encoder.0.weight", 0),
         "latent_dim": ("fc_mu.weight", 0)}  # config field -> (published array, axis)


def fused_qkv(config):
    """(3D, D) <-> (D, 3, heads, head width); a bias (3D,) <-> (3, heads, head width)."""
    heads = config.num_heads

    def to_ours(w):
        return w.T.reshape(*w.shape[1:], 3, heads, -1)

    def to_theirs(k):
        return k.reshape(*k.shape[:-3], -1).T

    return to_ours, to_theirs


def names(config) -> list[tuple]:
    """Rows (published names, our path, layout, layer) as avjax.weights.names wants them."""
    rows = []
    qkv = fused_qkv(config)

    def add(theirs, ours, layout=as_is):
        rows.append(((theirs,), ours, layout, None))

    def dense(theirs, ours):
        add(f"{theirs}.weight", f"{ours}/kernel", transposed)
        add(f"{theirs}.bias", f"{ours}/bias")

    def layers(theirs, ours):
        for i in range(config.num_layers):
            a, b = f"{theirs}.layers.{i}", f"{ours}_{i}"
            add(f"{a}.self_attn.in_proj_weight", f"{b}/qkv/kernel", qkv)
            add(f"{a}.self_attn.in_proj_bias", f"{b}/qkv/bias", qkv)
            dense(f"{a}.self_attn.out_proj", f"{b}/project")
            dense(f"{a}.linear1", f"{b}/mlp_in")
            dense(f"{a}.linear2", f"{b}/mlp_out")
            for norm in ("norm1", "norm2"):
                add(f"{a}.{norm}.weight", f"{b}/{norm}/scale")
                add(f"{a}.{norm}.bias", f"{b}/{norm}/bias")

    dense("encoder.0", "encoder_in")
    layers("encoder.1", "encoder")
    dense("fc_mu", "mean")
    dense("fc_var", "log_variance")
    dense("decoder_input", "decoder_in")
    layers("decoder.0", "decoder")
    dense("final_layer", "decoder_out")
    return rows


def import_head_vae(state: dict[str, np.ndarray], config):
    """Published head VAE -> our parameters."""
    return gather(state, names(config))


def export_head_vae(params, config) -> dict[str, np.ndarray]:
    """Our head VAE parameters -> published names and layouts."""
    return scatter(params, names(config))


def sizes(state: dict[str, np.ndarray], config) -> dict[str, int]:
    """Fields of the config that the shapes show. UserError: another network's weights."""
    for name, _ in SIZES.values():
        if name not in state:
            raise UserError("not a head VAE's state dict", expected=f"an entry {name}",
                            found=", ".join(list(state)[:3]), hint=PREFIXED)
    return {field: state[name].shape[axis] for field, (name, axis) in SIZES.items()}


PUBLISHED = Published("head_vae", import_head_vae, export_head_vae, sizes,
                      file=lambda state, step: {"model_state_dict": state})
