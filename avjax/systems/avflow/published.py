"""Published AV-Flow and head VAE state dicts <-> our parameters: one name table a network, both
directions.

Published layouts: a Linear's weight is (out, in); attention's fused projection is head-major (each
head's q, k, v adjacent) and rotates adjacent channel pairs, where ours is (in, 3, heads, head
width) with the pairs as halves. What the release trains is a wrapper, so that its files have the
network's names under `diffusion_module.`; names are read with and without it.
"""

import numpy as np

from avjax.errors import UserError
from avjax.weights.layouts import halves_from_adjacent
from avjax.weights.names import PREFIXED, gather, scatter

WRAPPER = "diffusion_module."
# torch.optim.AdamW's settings in the release, as its state_dict() gives them.
ADAMW = {"lr": 1e-4, "betas": (0.9, 0.98), "eps": 1e-9, "weight_decay": 0.0, "amsgrad": False,
         "maximize": False, "foreach": None, "capturable": False, "differentiable": False,
         "fused": None, "decoupled_weight_decay": True}


def plain(config):
    """weight (out, in) <-> kernel (in, out); a bias as it is."""
    return (lambda w: w.T if w.ndim == 2 else w), (lambda k: k.T if k.ndim == 2 else k)


def triple(config):
    """AdaLN's three vectors (alpha, beta, gamma): (3D, D) <-> (D, 3, D)."""
    def to_ours(w):
        return w.T.reshape(w.shape[1], 3, -1) if w.ndim == 2 else w.reshape(3, -1)

    def to_theirs(k):
        return k.reshape(k.shape[0], -1).T if k.ndim == 3 else k.reshape(-1)

    return to_ours, to_theirs


def fused_qkv(config, rotary: bool = True, head_major: bool = True):
    """(3D, D) <-> (D, 3, heads, head width); rotary pairs reordered for q and k."""
    heads, width = config.num_heads, config.d_model // config.num_heads
    order = halves_from_adjacent(width) if rotary else np.arange(width)
    back = np.argsort(order)

    def permute(x, index):  # (..., 3, heads, width)
        return np.concatenate([x[..., :2, :, :][..., index], x[..., 2:, :, :]], axis=-3)

    def to_ours(w):
        shape = (heads, 3, width) if head_major else (3, heads, width)
        x = (w.T if w.ndim == 2 else w[None]).reshape(-1, *shape)
        x = permute(x.swapaxes(1, 2) if head_major else x, order)
        return x if w.ndim == 2 else x[0]

    def to_theirs(k):
        x = permute(k if k.ndim == 4 else k[None], back)
        x = x.swapaxes(1, 2) if head_major else x
        x = x.reshape(x.shape[0], -1)
        return x.T if k.ndim == 4 else x[0]

    return to_ours, to_theirs


def avflow_names(config) -> list[tuple[str, str, object, int | None]]:
    """(published prefix, our prefix, layout, place in a stack or None) of every layer of the
    highway network."""
    rows = [("time_embed.mlp.0", "time_embed/hidden", plain, None),
            ("time_embed.mlp.2", "time_embed/out", plain, None)]
    for letter, tower in (("v", "visual"), ("a", "audio")):
        rows += [(f"input_proj_{letter}", f"{tower}/inputs", plain, None),
                 (f"out_{letter}", f"{tower}/outputs", plain, None)]
        for i in range(config.num_blocks):
            theirs, ours = f"transformer_blocks_{letter}.{i}", f"layers/blocks_{tower}"
            rows += [(f"{theirs}.self_attn.ada_ln.linear", f"{ours}/attention_adaln/linear", triple,
                      i),
                     (f"{theirs}.self_attn.self_attn.qkv", f"{ours}/qkv", fused_qkv, i),
                     (f"{theirs}.self_attn.self_attn.project", f"{ours}/project", plain, i),
                     (f"{theirs}.feedforward.ada_ln.linear", f"{ours}/mlp_adaln/linear", triple, i),
                     (f"{theirs}.feedforward.block.0", f"{ours}/mlp_in", plain, i),
                     (f"{theirs}.feedforward.block.3", f"{ours}/mlp_out", plain, i)]
    if config.fusion == "highway":
        rows += [(f"fusion.{i}", "layers/fusion", plain, i) for i in range(config.num_blocks)]
    return rows


def import_avflow(state: dict[str, np.ndarray], config):
    """Published names, wrapped or bare -> our parameters.

    Raises UserError naming the first entry that is missing, left over, or that the config's numbers
    of heads do not divide. Whether all shapes are the network's is the caller's to compare, as
    launch.weights does.
    """
    _highway_or_separate(config)
    return gather(_bare(state), _rows(config))


def export_avflow(params, config) -> dict[str, np.ndarray]:
    """Our parameters -> published names (bare) and layouts; the inverse of `import_avflow`, bit for
    bit."""
    _highway_or_separate(config)
    return scatter(params, _rows(config))


def trainer_file(state: dict[str, np.ndarray], step: int) -> dict:
    """What the release's trainer saves and, by its three keys, loads; of `export_avflow`'s result.

    The optimiser is a fresh AdamW with the release's settings: its loader wants one, and ours keeps
    moments of other layouts that need not be of the exported (averaged) weights. Towers without
    fusion get one that adds zero.
    """
    if "fusion.0.weight" not in state:
        width, blocks = 2 * state["out_v.weight"].shape[1], avflow_sizes(state)["num_blocks"]
        zeros = {"weight": np.zeros((width, width), np.float32),
                 "bias": np.zeros(width, np.float32)}
        state = state | {f"fusion.{i}.{name}": zero for i in range(blocks) for name,
                         zero in zeros.items()}
    # the wrapper has no parameters of its own
    groups = [{**ADAMW, "params": list(range(len(state)))}]
    return {"iteration": step, "model_state_dict": {WRAPPER + name: value for name,
                                                    value in state.items()},
            "optimizer_state_dict": {"state": {}, "param_groups": groups}}


def _bare(state):
    wrapped = all(name.startswith(WRAPPER) for name in state)
    return {name.removeprefix(WRAPPER) if wrapped else name: np.asarray(value) for name,
            value in state.items()}


def _rows(config):
    return [((f"{theirs}.{a}",), f"{ours}/{b}", layout(config), i) for theirs, ours, layout,
            i in avflow_names(config)
            for a, b in (("weight", "kernel"), ("bias", "bias"))]


def head_vae_names(config) -> list[tuple[str, str, str]]:
    """(published name, our name, kind) of every array of the head VAE; kind = plain | qkv |
    as_is."""
    rows = []

    def dense(theirs, ours, kind="plain"):
        rows.extend([(f"{theirs}.weight", f"{ours}/kernel", kind),
                     (f"{theirs}.bias", f"{ours}/bias", kind)])

    def layers(theirs, ours):
        for i in range(config.num_layers):
            a, b = f"{theirs}.layers.{i}", f"{ours}_{i}"
            rows.extend([(f"{a}.self_attn.in_proj_weight", f"{b}/qkv/kernel", "qkv"),
                         (f"{a}.self_attn.in_proj_bias", f"{b}/qkv/bias", "qkv")])
            dense(f"{a}.self_attn.out_proj", f"{b}/project")
            dense(f"{a}.linear1", f"{b}/mlp_in")
            dense(f"{a}.linear2", f"{b}/mlp_out")
            for norm in ("norm1", "norm2"):
                rows.extend([(f"{a}.{norm}.weight", f"{b}/{norm}/scale", "as_is"),
                             (f"{a}.{norm}.bias", f"{b}/{norm}/bias", "as_is")])

    dense("encoder.0", "encoder_in")
    layers("encoder.1", "encoder")
    dense("fc_mu", "mean")
    dense("fc_var", "log_variance")
    dense("decoder_input", "decoder_in")
    layers("decoder.0", "decoder")
    dense("final_layer", "decoder_out")
    return rows


def _head_vae_layout(kind: str, config):
    if kind == "as_is":
        return (lambda x: x), (lambda x: x)
    return fused_qkv(config, rotary=False, head_major=False) if kind == "qkv" else plain(config)


def head_vae_file(state: dict[str, np.ndarray], step: int) -> dict:
    """What the release loads as its head VAE, of `export_head_vae`'s result."""
    return {"model_state_dict": state}


def import_head_vae(state: dict[str, np.ndarray], config):
    """Published head VAE -> our parameters."""
    return gather(state, _head_vae_rows(config))


def export_head_vae(params, config) -> dict[str, np.ndarray]:
    """Our head VAE parameters -> published names and layouts."""
    return scatter(params, _head_vae_rows(config))


def _head_vae_rows(config):
    return [((theirs,), ours, _head_vae_layout(kind, config), None) for theirs, ours,
            kind in head_vae_names(config)]


def avflow_sizes(state: dict[str, np.ndarray]) -> dict[str, int]:
    """Sizes that a published state dict tells by its shapes (heads and windows it does not tell):
    d_model, d_ff, num_blocks, mel_dim, visual_dim, condition_dim."""
    state = _bare(state)
    try:
        visual, mel = state["out_v.weight"].shape[0], state["out_a.weight"].shape[0]
        return dict(d_model=state["out_v.weight"].shape[1], mel_dim=mel, visual_dim=visual,
                    d_ff=state["transformer_blocks_v.0.feedforward.block.0.weight"].shape[0],
                    num_blocks=len({name.split(".")[1] for name in state
                                    if name.startswith("transformer_blocks_v.")}),
                    condition_dim=state["input_proj_a.weight"].shape[1] - mel)
    except KeyError as error:
        raise UserError("not an AV-Flow state dict", expected=f"an entry {error.args[0]}",
                        found=", ".join(sorted(state)[:3]) + ", ...", hint=PREFIXED) from error


def _highway_or_separate(config):
    if config.fusion not in ("highway", "separate"):
        raise UserError("published names exist for the two-tower network only",
                        where="config.system.fusion",
                        expected="highway | separate", found=config.fusion)
