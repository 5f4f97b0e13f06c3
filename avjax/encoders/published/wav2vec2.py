"""The wav2vec 2.0 family's published names -> our parameters (avjax/encoders/wav2vec2.py).

Understands the names of transformers (`wav2vec2.encoder.layers.0...`, `hubert. ...`, bare), of
torchaudio (`encoder.transformer.layers.0...`, `aux`), of fairseq and WavLM's own code
(`encoder.layers.0.self_attn...`, `post_extract_proj`: the published xlsr2_1b_v2.pt) and of fairseq2
(`encoder_frontend...`, `ffn.inner_proj`). Both generations of weight norm on the positional
convolution are folded.
"""

import re

import numpy as np

from avjax.errors import UserError
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


def import_params(state: dict[str, np.ndarray], where: str = "",
                  num_layers: int | None = None) -> dict:
    """{published name: array} -> nested parameters, float32, encoder layers stacked on a leading
    axis.

    num_layers: keep only the first so many layers (units are read from an inner layer). UserError:
      names that are not
    of this network, or missing ones.
    """
    canonical = {}
    for name, value in state.items():
        for pattern, replacement in CANONICAL:
            name = re.sub(pattern, replacement, name)
        if not re.fullmatch(IGNORED, name):
            canonical[name] = np.asarray(value, np.float32)
    canonical = _split(fold_weight_norm(canonical))
    params: dict = {}
    unknown = []
    table = [(numbered(theirs), ours, kind) for theirs, ours, kind in NAMES]
    for name, value in canonical.items():
        for pattern, ours, kind in table:
            if match := pattern.fullmatch(name):
                value = value.ravel() if kind == "heads" else value  # (1, H, 1, 1)
                put(params, ours.format(*match.groups()), value.transpose(*_AXES[kind]))
                break
        else:
            unknown.append(name)
    missing = [n for n in ("features", "projection_norm", "projection", "position", "norm",
                           "layers")
               if n not in params]
    if unknown or missing:
        raise UserError("these are not the weights of a wav2vec 2.0 network", where=where,
                        expected="names of wav2vec2, HuBERT, XLS-R or WavLM in transformers, "
                        "torchaudio or fairseq",
                        found=(f"{len(unknown)} unknown names, e.g. {', '.join(unknown[:4])}"
                               if unknown else
                               f"no name for {', '.join(missing)}"),
                        hint="check which model the file is of")
    params["layers"] = stack_layers(params["layers"], where, num_layers)
    return params


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


_AXES = {"conv": (2, 1, 0), "matrix": (1, 0), "vector": (0,), "heads": (0,), "table": (0, 1)}
