"""Whisper's published names -> parameters of avjax/encoders/whisper.py.

OpenAI's (`encoder.blocks.0.attn.query...`) and transformers'
(`model.encoder.layers.0.self_attn.q_proj...`); what belongs to the decoder is left out.
"""

import re

import numpy as np

from avjax.weights import names
from avjax.weights.fold import put, stack_layers

_DECODER = r"(model\.)?decoder\..*|proj_out\..*|alignment_heads"
_CANONICAL = (  # transformers' -> OpenAI's
    (r"^(model\.)?encoder\.", ""), (r"^layers\.", "blocks."),
    (r"\.self_attn\.q_proj\.", ".attn.query."),
    (r"\.self_attn\.k_proj\.", ".attn.key."), (r"\.self_attn\.v_proj\.", ".attn.value."),
    (r"\.self_attn\.out_proj\.", ".attn.out."), (r"\.self_attn_layer_norm\.", ".attn_ln."),
    (r"\.final_layer_norm\.", ".mlp_ln."), (r"\.fc1\.", ".mlp.0."), (r"\.fc2\.", ".mlp.2."),
    (r"^layer_norm\.", "ln_post."), (r"^embed_positions\.weight$", "positional_embedding"))
_LAYER = {"attn.query": "query", "attn.key": "key", "attn.value": "value", "attn.out": "out",
          "attn_ln": "attention_norm", "mlp.0": "ffn_in", "mlp.2": "ffn_out", "mlp_ln": "ffn_norm"}


def canonical(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The encoder's arrays under OpenAI's names, without "encoder."."""
    return {_canonical(name): x for name, x in state.items() if not re.fullmatch(_DECODER, name)}


def _canonical(name: str) -> str:
    for pattern, replacement in _CANONICAL:
        name = re.sub(pattern, replacement, name)
    return name


def import_params(state: dict[str, np.ndarray], where: str = "") -> dict:
    """{published name: array} -> nested parameters, float32, layers stacked. Unlike (a UserError)
    lists every array that is missing, left over or of another shape."""
    found, theirs = {}, {}
    for name, value in state.items():
        if re.fullmatch(_DECODER, name):
            continue
        ours = _canonical(name)
        found[ours], theirs[ours] = np.asarray(value, np.float32), name
    difference = names.compare({n: x.shape for n, x in found.items()}, _expected(found),
                               "these are not the weights of a Whisper encoder", where=where,
                               hint="give Whisper large-v3, of OpenAI or transformers")
    if difference.differs:
        raise difference.under(theirs)
    params: dict = {"positions": found["positional_embedding"]}
    for name, value in found.items():
        module, _, kind = name.rpartition(".")
        layer = re.match(r"blocks\.(\d+)\.(.*)", module)
        ours = f"layers/{layer[1]}/{_LAYER[layer[2]]}" if layer else module.replace("ln_post",
                                                                                    "norm")
        if value.ndim > 1 and module:
            put(params, f"{ours}/kernel", np.ascontiguousarray(value.T))
        elif module:
            leaf = "scale" if kind == "weight" else "bias"
            put(params, f"{ours}/{leaf}", value)
    params["layers"] = stack_layers(params["layers"], where)
    return params


def _expected(state: dict[str, np.ndarray]) -> dict[str, names.Shape]:
    """Of the network that its first arrays show."""
    def axis(name, i):
        return state[name].shape[i] if name in state and state[name].ndim > i else None

    width, inner = axis("conv1.weight", 0), axis("blocks.0.mlp.0.weight", 0)
    layers = 1 + max((int(match[1]) for name in state if (match := re.match(r"blocks\.(\d+)\.",
                                                                            name))), default=0)
    out = {"positional_embedding": (None, width), "conv1.weight": (width, None, 3),
           "conv2.weight": (width, width, 3), "conv1.bias": (width,), "conv2.bias": (width,),
           "ln_post.weight": (width,), "ln_post.bias": (width,)}
    for i in range(layers):
        rows = {"attn.query": width, "attn.key": width, "attn.value": width, "attn.out": width,
                "mlp.0": inner, "mlp.2": width}
        for module, n in rows.items():
            columns = inner if module == "mlp.2" else width
            out[f"blocks.{i}.{module}.weight"] = (n, columns)
            if module != "attn.key":
                out[f"blocks.{i}.{module}.bias"] = (n,)
        for module in ("attn_ln", "mlp_ln"):
            out |= {f"blocks.{i}.{module}.{kind}": (width,) for kind in ("weight", "bias")}
    return out
