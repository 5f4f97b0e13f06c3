"""Whisper's decoder (Radford et al. 2022, arXiv:2212.04356): which tokens a window of sound is
heard as, greedily.

The encoder is avjax/encoders/whisper.py. Weights come under OpenAI's names
(`decoder.blocks.0.cross_attn.query...`) or transformers'
(`model.decoder.layers.0.encoder_attn.q_proj...`).
Suffixes: B batch, L tokens (of the prompt, then of what is heard), T features of the window, D
width, H heads, K width of a head, V vocabulary; layers are stacked on a leading axis.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from avjax.nn.attention import NEGATIVE, attend
from avjax.nn.layers import gelu
from avjax.weights import names
from avjax.weights.fold import put, stack_layers

EPS = 1e-5
WHAT = "these are not the weights of a Whisper decoder"
HINT = "give the model.safetensors of a Whisper that openai publishes for transformers"
_DECODER = re.compile(r"(model\.)?decoder\.(.*)")
_CANONICAL = (  # transformers' -> OpenAI's
    (r"^layers\.", "blocks."), (r"\.self_attn_layer_norm\.", ".attn_ln."),
    (r"\.encoder_attn_layer_norm\.", ".cross_attn_ln."), (r"\.final_layer_norm\.", ".mlp_ln."),
    (r"\.self_attn\.", ".attn."), (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.q_proj\.", ".query."), (r"\.k_proj\.", ".key."), (r"\.v_proj\.", ".value."),
    (r"\.out_proj\.", ".out."), (r"\.fc1\.", ".mlp.0."), (r"\.fc2\.", ".mlp.2."),
    (r"^layer_norm\.", "ln."), (r"^embed_positions\.weight$", "positional_embedding"),
    (r"^embed_tokens\.", "token_embedding."))
_LAYER = {"attn_ln": "self/norm", "cross_attn_ln": "cross/norm", "mlp_ln": "ffn/norm",
          "mlp.0": "ffn/in", "mlp.2": "ffn/out",
          **{f"{ours}.{part}": f"{name}/{part}" for ours, name in
             (("attn", "self"), ("cross_attn", "cross"))
             for part in ("query", "key", "value", "out")}}


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    num_heads: int
    positions: int = 448  # tokens: prompt and what is heard


def import_params(state: dict[str, np.ndarray], where: str = "") -> dict:
    """{published name: array} of all of Whisper -> nested parameters of its decoder, float32,
    layers stacked. Unlike (a UserError) lists every array that is missing, left over or of another
    shape."""
    found, theirs = {}, {}
    for name, value in state.items():
        if inside := _DECODER.fullmatch(name):
            ours = inside[2]
            for pattern, replacement in _CANONICAL:
                ours = re.sub(pattern, replacement, ours)
            found[ours], theirs[ours] = np.asarray(value, np.float32), name
    difference = names.compare({n: x.shape for n, x in found.items()}, _expected(found), WHAT,
                               where=where, hint=HINT)
    if difference.differs:
        raise difference.under(theirs)
    params: dict = {"tokens": found.pop("token_embedding.weight"),
                    "positions": found.pop("positional_embedding")}
    for name, value in found.items():
        module, _, kind = name.rpartition(".")
        layer = re.match(r"blocks\.(\d+)\.(.*)", module)
        ours = f"layers/{layer[1]}/{_LAYER[layer[2]]}" if layer else "norm"
        if value.ndim > 1:
            put(params, f"{ours}/kernel", np.ascontiguousarray(value.T))
        else:
            leaf = "scale" if kind == "weight" and ours.endswith("norm") else "bias"
            put(params, f"{ours}/{leaf}", value)
    params["layers"] = stack_layers(params["layers"], where)
    return params


def _expected(state: dict[str, np.ndarray]) -> dict[str, names.Shape]:
    """Of the network that its first arrays show."""
    def axis(name, i):
        return state[name].shape[i] if name in state and state[name].ndim > i else None

    width, inner = axis("token_embedding.weight", 1), axis("blocks.0.mlp.0.weight", 0)
    layers = 1 + max((int(match[1]) for name in state
                      if (match := re.match(r"blocks\.(\d+)\.", name))), default=0)
    out = {"token_embedding.weight": (None, width), "positional_embedding": (None, width),
           "ln.weight": (width,), "ln.bias": (width,)}
    for i in range(layers):
        for module in _LAYER:
            rows, columns = {"mlp.0": (inner, width), "mlp.2": (width, inner)}.get(
                module, (width, width))
            if module.endswith("_ln"):
                out[f"blocks.{i}.{module}.weight"] = (width,)
            else:
                out[f"blocks.{i}.{module}.weight"] = (rows, columns)
            if not module.endswith("key"):
                out[f"blocks.{i}.{module}.bias"] = (rows,)
    return out


def heard_keys(params: dict, config: DecoderConfig, encoded_BTD) -> dict:
    """What every layer looks at of the sound: {"key", "value": (layers, B, H, T, K)}."""
    return {name: jax.vmap(lambda p: _heads(config, _dense(p, encoded_BTD)))(
        params["layers"]["cross"][name]) for name in ("key", "value")}


def empty_cache(params: dict, config: DecoderConfig, batch: int, length: int) -> dict:
    """Of `length` tokens: {"key", "value": (layers, B, H, L, K)}."""
    layers, width = params["layers"]["self"]["norm"]["scale"].shape
    shape = (layers, batch, config.num_heads, length, width // config.num_heads)
    return {name: jnp.zeros(shape) for name in ("key", "value")}


def step(params: dict, config: DecoderConfig, heard: dict, cache: dict, token_B, position):
    """One token at `position` -> (logits (B, V) of the next one, cache with this one)."""
    x_B1D = (params["tokens"][token_B] + params["positions"][position])[:, None]
    known_L = jnp.arange(cache["key"].shape[3]) <= position

    def layer(x_B1D, of):
        p, heard, cache = of
        y_B1D = _norm(p["self"]["norm"], x_B1D)
        cache = {name: lax.dynamic_update_slice_in_dim(
            cache[name], _heads(config, _dense(p["self"][name], y_B1D)), position, axis=2)
            for name in cache}
        x_B1D = x_B1D + _mixed(p["self"], config, y_B1D, cache, known_L)
        y_B1D = _norm(p["cross"]["norm"], x_B1D)
        x_B1D = x_B1D + _mixed(p["cross"], config, y_B1D, heard, None)
        y_B1D = gelu(_dense(p["ffn"]["in"], _norm(p["ffn"]["norm"], x_B1D)))
        return x_B1D + _dense(p["ffn"]["out"], y_B1D), cache

    x_B1D, cache = lax.scan(layer, x_B1D, (params["layers"], heard, cache))
    return _norm(params["norm"], x_B1D[:, 0]) @ params["tokens"].T, cache


def logits(params: dict, config: DecoderConfig, encoded_BTD, tokens_BL) -> jax.Array:
    """(B, L, V): of the token behind each of those given."""
    heard = heard_keys(params, config, encoded_BTD)
    cache = empty_cache(params, config, *tokens_BL.shape)

    def one(cache, now):
        found_BV, cache = step(params, config, heard, cache, *now)
        return cache, found_BV

    steps = tokens_BL.T, jnp.arange(tokens_BL.shape[1])
    return jnp.swapaxes(lax.scan(one, cache, steps)[1], 0, 1)


def greedy(params: dict, config: DecoderConfig, encoded_BTD, prompt_L, barred_V, barred_first_V,
           end: int, most: int) -> jax.Array:
    """(B, most) the likeliest tokens behind a prompt, one after the other; from the `end` token on
    all are that one. A row does not depend on the others.

    Args:
      encoded_BTD: features of windows.
      prompt_L: tokens that every row begins with.
      barred_V, barred_first_V: bool, tokens that are never chosen, and not as the first one.
      most: tokens behind the prompt.
    """
    batch, given = encoded_BTD.shape[0], len(prompt_L)
    length = given + most
    heard = heard_keys(params, config, encoded_BTD)
    tokens_BL = jnp.full((batch, length), end, jnp.int32).at[:, :given].set(prompt_L)

    def unfinished(state):
        position, done_B, *_ = state
        return (position < length - 1) & ~done_B.all()

    def one(state):
        position, done_B, tokens_BL, cache = state
        found_BV, cache = step(params, config, heard, cache, tokens_BL[:, position], position)
        barred = barred_V | (barred_first_V & (position == given - 1))
        chosen_B = jnp.argmax(jnp.where(barred, NEGATIVE, found_BV), axis=-1).astype(jnp.int32)
        free = position >= given - 1
        chosen_B = jnp.where(free, jnp.where(done_B, end, chosen_B), tokens_BL[:, position + 1])
        return (position + 1, done_B | (free & (chosen_B == end)),
                tokens_BL.at[:, position + 1].set(chosen_B), cache)

    start = (jnp.int32(0), jnp.zeros(batch, bool), tokens_BL,
             empty_cache(params, config, batch, length))
    return lax.while_loop(unfinished, one, start)[2][:, given:]


def _heads(config: DecoderConfig, x_BLD):
    return x_BLD.reshape(*x_BLD.shape[:2], config.num_heads, -1).transpose(0, 2, 1, 3)


def _mixed(p: dict, config: DecoderConfig, x_BLD, of: dict, seen):
    o_BHLK = attend(_heads(config, _dense(p["query"], x_BLD)), of["key"], of["value"], seen)
    return _dense(p["out"], o_BHLK.transpose(0, 2, 1, 3).reshape(x_BLD.shape))


def _dense(p: dict, x):
    return x @ p["kernel"] + p.get("bias", 0)


def _norm(p: dict, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + EPS) * p["scale"] \
        + p["bias"]
