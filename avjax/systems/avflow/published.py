"""Published AV-Flow state dicts <-> our parameters: one name table, both directions.

Published layouts: a Linear's weight is (out, in); attention's fused projection is head-major (each
head's q, k, v adjacent) and rotates adjacent channel pairs, where ours is (in, 3, heads, head
width) with the pairs as halves. What the release trains is a wrapper, so that its files have the
network's names under `diffusion_module.`; names are read with and without it.
"""

import numpy as np

from avjax.errors import UserError
from avjax.weights.layouts import halves_from_adjacent, transposed
from avjax.weights.names import PREFIXED, gather, scatter
from avjax.weights.published import Published

WRAPPER = "diffusion_module."
# widths of the release's conditions on a partner
DYADIC = {"partner_token_dim": 29, "partner_expression_dim": 55, "partner_head_dim": 3}
# torch.optim.AdamW's settings in the release, as its state_dict() gives them.
ADAMW = {"lr": 1e-4, "betas": (0.9, 0.98), "eps": 1e-9, "weight_decay": 0.0, "amsgrad": False,
         "maximize": False, "foreach": None, "capturable": False, "differentiable": False,
         "fused": None, "decoupled_weight_decay": True}


def _triple_in(w):
    return w.T.reshape(w.shape[1], 3, -1) if w.ndim == 2 else w.reshape(3, -1)


def _triple_out(k):
    return k.reshape(k.shape[0], -1).T if k.ndim == 3 else k.reshape(-1)


triple = (_triple_in, _triple_out)  # AdaLN's (alpha, beta, gamma): (3D, D) <-> (D, 3, D)


def fused_qkv(config):
    """(3D, D), head-major <-> (D, 3, heads, head width); rotary pairs reordered for q and k."""
    heads = config.num_heads
    width = config.d_model // config.num_heads
    order = halves_from_adjacent(width)

    def permute(x, index):  # (..., 3, heads, width)
        return np.concatenate([x[..., :2, :, :][..., index], x[..., 2:, :, :]], axis=-3)

    def to_ours(w):
        x = (w.T if w.ndim == 2 else w[None]).reshape(-1, heads, 3, width)
        x = permute(x.swapaxes(1, 2), order)
        return x if w.ndim == 2 else x[0]

    def to_theirs(k):
        x = permute(k if k.ndim == 4 else k[None], np.argsort(order)).swapaxes(1, 2)
        x = x.reshape(x.shape[0], -1)
        return x.T if k.ndim == 4 else x[0]

    return to_ours, to_theirs


def avflow_names(config) -> list[tuple[str, str, object, int | None]]:
    """(published prefix, our prefix, layout, place in a stack or None) of every layer of the
    highway network."""
    qkv = fused_qkv(config)
    rows = [("time_embed.mlp.0", "time_embed/hidden", transposed, None),
            ("time_embed.mlp.2", "time_embed/out", transposed, None)]
    for letter, tower in (("v", "visual"), ("a", "audio")):
        rows += [(f"input_proj_{letter}", f"{tower}/inputs", transposed, None),
                 (f"out_{letter}", f"{tower}/outputs", transposed, None)]
        for i in range(config.num_blocks):
            theirs = f"transformer_blocks_{letter}.{i}"
            ours = f"layers/blocks_{tower}"
            rows += [(f"{theirs}.self_attn.ada_ln.linear", f"{ours}/attention_adaln/linear", triple,
                      i),
                     (f"{theirs}.self_attn.self_attn.qkv", f"{ours}/qkv", qkv, i),
                     (f"{theirs}.self_attn.self_attn.project", f"{ours}/project", transposed, i),
                     (f"{theirs}.feedforward.ada_ln.linear", f"{ours}/mlp_adaln/linear", triple, i),
                     (f"{theirs}.feedforward.block.0", f"{ours}/mlp_in", transposed, i),
                     (f"{theirs}.feedforward.block.3", f"{ours}/mlp_out", transposed, i)]
    if config.fusion == "highway":
        rows += [(f"fusion.{i}", "layers/fusion", transposed, i) for i in range(config.num_blocks)]
    return rows


def import_avflow(state: dict[str, np.ndarray], config):
    """Published names, wrapped or bare -> our parameters.

    Raises UserError naming the first entry that is missing, left over, or that the config's numbers
    of heads do not divide. Whether all shapes are the network's is the caller's to compare, as
    launch.jobs.weights does.
    """
    _highway_or_separate(config)
    return gather(_bare(state), _rows(config))


def export_avflow(params, config) -> dict[str, np.ndarray]:
    """Our parameters -> published names (bare) and layouts; the inverse of `import_avflow`, bit for
    bit."""
    _highway_or_separate(config)
    return scatter(params, _rows(config))


def trainer_file(state: dict[str, np.ndarray], step: int) -> dict:
    """The checkpoint that the release's trainer saves and loads, from `export_avflow`'s result.

    The optimiser is a fresh AdamW with the release's settings: its loader wants one, and ours keeps
    moments of other layouts that need not be of the exported (averaged) weights. Towers without
    fusion get one that adds zero.
    """
    if "fusion.0.weight" not in state:
        width = 2 * state["out_v.weight"].shape[1]
        blocks = avflow_sizes(state)["num_blocks"]
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
    return {name.removeprefix(WRAPPER): np.asarray(value) for name, value in state.items()}


def _rows(config):
    return [((f"{theirs}.{a}",), f"{ours}/{b}", layout, i)
            for theirs, ours, layout, i in avflow_names(config)
            for a, b in (("weight", "kernel"), ("bias", "bias"))]


def avflow_sizes(state: dict[str, np.ndarray]) -> dict[str, int]:
    """Sizes that the shapes of a published state dict show (not heads and windows):
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


def config_sizes(state: dict[str, np.ndarray], config) -> dict[str, int]:
    """Fields of the published config that a state dict shows. UserError: another network's weights,
    or conditions of neither release's widths."""
    sizes = avflow_sizes(state)
    rest = sizes["condition_dim"] - config.token_dim
    partners = {0: dict.fromkeys(DYADIC, 0), sum(DYADIC.values()): DYADIC,
                DYADIC["partner_token_dim"]: dict.fromkeys(DYADIC, 0) | {
                    "partner_token_dim": DYADIC["partner_token_dim"]}}
    if rest not in partners:
        raise UserError("the network's conditions are not the release's",
                        where="input_proj_a.weight",
                        expected="29 inputs beside the mel, 116 in a dyadic network, or 58 in one "
                                 "of Audio2Photoreal",
                        found=str(sizes["condition_dim"]),
                        hint="pass --config with token, identity and partner widths")
    shown = {name: sizes[name] for name in ("d_model", "d_ff", "num_blocks", "mel_dim")}
    shown["face_dim"] = sizes["visual_dim"] - config.head_dim
    return shown | partners[rest]


PUBLISHED = Published("avflow_released", import_avflow, export_avflow, config_sizes, trainer_file)
