"""The wav2vec 2.0 family's published names -> our parameters (avjax/encoders/wav2vec2.py).

Understands the names of transformers (`wav2vec2.encoder.layers.0...`, `hubert. ...`, bare), of
torchaudio (`encoder.transformer.layers.0...`, `aux`), of fairseq and WavLM's own code
(`encoder.layers.0.self_attn...`, `post_extract_proj`: the published xlsr2_1b_v2.pt) and of fairseq2
(`encoder_frontend...`, `ffn.inner_proj`). Both generations of weight norm on the positional
convolution are folded.
"""

import re
from collections import Counter
from collections.abc import Callable

import numpy as np

from avjax.weights import names
from avjax.weights.fold import fold_weight_norm, numbered, put, stack_layers

CANONICAL = (  # other namings -> the bare names of transformers
    (r"^(wav2vec2|hubert|wavlm|model|w2v_encoder)\.", ""), (r"^w2v_model\.", ""),
    # torchaudio
    (r"^encoder\.feature_projection\.", "feature_projection."),
    (r"^encoder\.transformer\.", "encoder."), (r"^aux\.", "lm_head."),
    # fairseq, then fairseq2
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.(1\.)?",
     r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."), (r"^proj\.", "lm_head."),
    (r"^encoder_frontend\.feature_extractor\.layers\.(\d+)\.(group_norm|layer_norm)\.",
     r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"^encoder_frontend\.feature_extractor\.layers\.", "feature_extractor.conv_layers."),
    (r"^encoder_frontend\.post_extract_layer_norm\.", "feature_projection.layer_norm."),
    (r"^encoder_frontend\.model_dim_proj\.", "feature_projection.projection."),
    (r"^encoder_frontend\.pos_encoder\.conv\.", "encoder.pos_conv_embed.conv."),
    # WavLM's: torchaudio, its own code
    (r"\.attention\.attention\.", ".attention."),
    (r"\.self_attn\.relative_attention_bias\.", ".attention.rel_attn_embed."),
    (r"\.self_attn\.grep_linear\.", ".attention.gru_rel_pos_linear."),
    (r"\.self_attn\.grep_a$", ".attention.gru_rel_pos_const"),
    (r"\.self_attn\.(q|k|v)_proj\.", r".attention.\1_proj."),
    (r"\.self_attn\.out(put)?_proj\.", ".attention.out_proj."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."), (r"\.ffn_layer_norm\.", ".final_layer_norm."),
    (r"\.(fc1|ffn\.inner_proj)\.", ".feed_forward.intermediate_dense."),
    (r"\.(fc2|ffn\.output_proj)\.", ".feed_forward.output_dense."))

# pre-training only
IGNORED = (
    r"masked_spec_embed|mask_emb|masker\..*|quantizer\..*|project_(q|hid)\..*|mask_generator\..*|final_(target_)?proj\..*"
           r"|label_embs_concat")

NAMES = (  # (published name, ours, kind); {} counts layers
    (r"feature_extractor.conv_layers.{}.conv.weight", "features/conv_{}/kernel", "conv"),
    (r"feature_extractor.conv_layers.{}.conv.bias", "features/conv_{}/bias", "vector"),
    (r"feature_extractor.conv_layers.{}.layer_norm.weight", "features/norm_{}/scale", "vector"),
    (r"feature_extractor.conv_layers.{}.layer_norm.bias", "features/norm_{}/bias", "vector"),
    ("feature_projection.layer_norm.weight", "projection_norm/scale", "vector"),
    ("feature_projection.layer_norm.bias", "projection_norm/bias", "vector"),
    ("feature_projection.projection.weight", "projection/kernel", "matrix"),
    ("feature_projection.projection.bias", "projection/bias", "vector"),
    ("encoder.pos_conv_embed.conv.weight", "position/kernel", "conv"),
    ("encoder.pos_conv_embed.conv.bias", "position/bias", "vector"),
    ("encoder.layer_norm.weight", "norm/scale", "vector"),
    ("encoder.layer_norm.bias", "norm/bias", "vector"),
    *((f"encoder.layers.{{}}.{theirs}.weight", f"layers/{{}}/{ours}/kernel", "matrix") for theirs,
      ours in (
        ("attention.q_proj", "query"), ("attention.k_proj", "key"), ("attention.v_proj", "value"),
        ("attention.out_proj", "out"), ("feed_forward.intermediate_dense", "ffn_in"),
        ("feed_forward.output_dense", "ffn_out"))),
    *((f"encoder.layers.{{}}.{theirs}.bias", f"layers/{{}}/{ours}/bias", "vector") for theirs,
      ours in (
        ("attention.q_proj", "query"), ("attention.k_proj", "key"), ("attention.v_proj", "value"),
        ("attention.out_proj", "out"), ("feed_forward.intermediate_dense", "ffn_in"),
        ("feed_forward.output_dense", "ffn_out"), ("layer_norm", "attention_norm"),
        ("final_layer_norm", "ffn_norm"))),
    *((f"encoder.layers.{{}}.{theirs}.weight", f"layers/{{}}/{ours}/scale", "vector") for theirs,
      ours in (
        ("layer_norm", "attention_norm"), ("final_layer_norm", "ffn_norm"))),
    # WavLM: one table for all layers, kept by the first
    ("encoder.layers.0.attention.rel_attn_embed.weight", "relative_bias", "table"),
    ("encoder.layers.{}.attention.gru_rel_pos_linear.weight", "layers/{}/gate/linear/kernel",
     "matrix"),
    ("encoder.layers.{}.attention.gru_rel_pos_linear.bias", "layers/{}/gate/linear/bias", "vector"),
    ("encoder.layers.{}.attention.gru_rel_pos_const", "layers/{}/gate/scale", "heads"),
    ("lm_head.weight", "lm_head/kernel", "matrix"),
    ("lm_head.bias", "lm_head/bias", "vector"),
)


# parts of names that only some of the networks have
OPTIONAL = (".conv.bias", "lm_head", "rel_attn_embed", "gru_rel_pos")


def import_params(state: dict[str, np.ndarray], where: str = "",
                  num_layers: int | None = None) -> dict:
    """{published name: array} -> nested parameters, float32, encoder layers stacked on a leading
    axis.

    num_layers: keep only the first so many layers (units are read from an inner layer).

    Raises Unlike (a UserError), which lists every array that is missing, of another network or of
    another shape; the missing ones as transformers names them.
    """
    canonical, theirs = {}, {}
    for name, value in state.items():
        ours = name
        for pattern, replacement in CANONICAL:
            ours = re.sub(pattern, replacement, ours)
        if not re.fullmatch(IGNORED, ours):
            canonical[ours], theirs[ours] = np.asarray(value, np.float32), name
    canonical = _split(fold_weight_norm(canonical))
    difference = names.compare({n: x.shape for n, x in canonical.items()}, _expected(canonical),
                               "these are not the weights of a wav2vec 2.0 network", where=where,
                               hint="check which model the file is of; names may be transformers', "
                                    "torchaudio's or fairseq's")
    if difference.differs:
        raise difference.under(theirs)
    params: dict = {}
    table = [(numbered(theirs), ours, kind) for theirs, ours, kind in NAMES]
    for name, value in canonical.items():
        for pattern, ours, kind in table:
            if match := pattern.fullmatch(name):
                value = value.ravel() if kind == "heads" else value  # (1, H, 1, 1)
                put(params, ours.format(*match.groups()), value.transpose(*AXES[kind]))
                break
    params["layers"] = stack_layers(params["layers"], where, num_layers)
    return params


def import_inside(state: dict[str, np.ndarray], prefix: str,
                  outer: dict[str, np.ndarray], expected: Callable[[dict | None], dict],
                  what: str, where: str = "", hint: str = "") -> dict:
    """The parameters of an encoder whose arrays, those of a state dict under `prefix`, are a part
    of another network.

    Args:
      outer: the arrays around it, that are of use.
      expected: the encoder's parameters, None where it is another -> {name: shape} of these.
      what: the message where they differ.

    Raises Unlike (a UserError), which lists every array that is missing, left over or of another
    shape, of either part.
    """
    inner = {n.removeprefix(prefix): x for n, x in state.items() if n.startswith(prefix)}
    try:
        encoder, wrong = import_params(inner, where), names.Unlike(what)
    except names.Unlike as error:
        encoder, wrong = None, error
    differ = names.compare({n: x.shape for n, x in outer.items()}, expected(encoder), what)
    if wrong.differs or differ.differs:
        raise names.Unlike(what, where=where, hint=hint,
                           missing=[*(prefix + n for n in wrong.missing), *differ.missing],
                           extra=[*(prefix + n for n in wrong.extra), *differ.extra],
                           shapes={prefix + n: x for n, x in wrong.shapes.items()} | differ.shapes)
    return encoder


def _expected(state: dict[str, np.ndarray]) -> dict[str, names.Shape]:
    """{transformers' name: shape} of the network that most of the arrays are of: as many layers as
    the highest number says, and what only some networks have where any array of it is there."""
    out: dict[str, names.Shape] = {}
    for name, _, kind in NAMES:
        pattern = numbered(name)
        found = [(int((match.groups() or (0,))[0]), x) for n, x in state.items()
                 if (match := pattern.fullmatch(n))]
        if any(part in name and not any(part in n for n in state if "pos_conv" not in n)
               for part in OPTIONAL if "pos_conv" not in name):
            continue
        stack = re.escape(name.partition("{}")[0]) + r"(\d+)\."
        count = 1 + max((int(match[1]) for n in state if (match := re.match(stack, n))), default=0)
        if "conv_layers" in name and "layer_norm" in name and len(found) == 1:
            count = 1  # the first convolution only, over time
        for i in range(count if "{}" in name else 1):
            own = next((x.shape for n, x in found if n == i), None)
            most = Counter(x.shape for _, x in found).most_common(1)[0][0] if found else None
            # convolutions differ from one to the next, layers of the transformer do not
            free = "conv_layers" in name and own and len(own) == _DIMENSIONS[kind]
            shape = own if free else most
            out[name.format(i)] = shape or (None,) * _DIMENSIONS[kind]
    width, features = (_length(state, name) for name in (
        "encoder.layer_norm.weight", "feature_projection.layer_norm.weight"))
    vocabulary = _length(state, "lm_head.weight")
    named = {"feature_projection.layer_norm.bias": (features,),
             "feature_projection.projection.weight": (width, features),
             "feature_projection.projection.bias": (width,),
             "encoder.pos_conv_embed.conv.weight": (width, None, None),
             "encoder.pos_conv_embed.conv.bias": (width,), "encoder.layer_norm.bias": (width,),
             "lm_head.weight": (vocabulary, width), "lm_head.bias": (vocabulary,)}
    return out | {name: shape for name, shape in named.items() if name in out}


def _length(state, name: str) -> int | None:
    return len(state[name]) if name in state else None


def _split(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Queries, keys and values apart, where torch.nn.MultiheadAttention keeps them in one array
    (torchaudio's WavLM)."""
    out = {}
    for name, value in state.items():
        if match := re.fullmatch(r"(.*\.attention\.)in_proj_(weight|bias)", name):
            for letter, part in zip("qkv", np.split(value, 3), strict=True):
                out[f"{match[1]}{letter}_proj.{match[2]}"] = part
        else:
            out[name] = value
    return out


_DIMENSIONS = {"conv": 3, "matrix": 2, "vector": 1, "heads": 4, "table": 2}
AXES = {"conv": (2, 1, 0), "matrix": (1, 0), "vector": (0,), "heads": (0,), "table": (0, 1)}
