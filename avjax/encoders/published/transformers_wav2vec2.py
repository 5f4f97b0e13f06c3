"""Our parameters of the wav2vec 2.0 family (avjax/encoders/wav2vec2.py) -> transformers' names and
config: what `Wav2Vec2Model`, `WavLMModel` and, with a CTC head, `...ForCTC` load.

The inverse of avjax/encoders/published/wav2vec2.py. HuBERT's network is wav2vec 2.0's, and is
written as that.
"""

from typing import Any

import numpy as np

from avjax.encoders.published.wav2vec2 import AXES, NAMES

POSITION = "encoder.pos_conv_embed.conv"
HEAD = "lm_head."


def export_params(params: dict) -> dict[str, np.ndarray]:
    """Parameters of all layers -> {transformers' name: float32 array}, which `import_params` reads
    back to the bit.

    The positional convolution's weight w is written in its weight-normed form, with magnitude |w|
    and direction w: the same weight, whatever pair a published file had for it. Arrays of
    pre-training alone (quantizer, mask embedding) are not among our parameters.
    """
    state: dict[str, np.ndarray] = {}
    for theirs, ours, kind in NAMES:
        stacked = ours.startswith("layers/")
        if stacked:
            value_L = _at(params, ours.replace("/{}", ""))
            found = {} if value_L is None else dict(enumerate(value_L))
        else:
            count = len(params["features"]) if "{}" in ours else 1
            found = {i: _at(params, ours.format(i)) for i in range(count)}
        for i, value in found.items():
            if value is not None:
                value = np.asarray(value).transpose(*np.argsort(AXES[kind]))
                state[theirs.format(i)] = (value.reshape(1, -1, 1, 1) if kind == "heads" else value)
    weight = state.pop(f"{POSITION}.weight")
    norm = np.sqrt(np.sum(np.square(weight, dtype=np.float64), (0, 1), keepdims=True))
    pair = f"{POSITION}.parametrizations.weight.original"
    state |= {f"{pair}0": norm.astype(weight.dtype), f"{pair}1": weight}
    if "lm_head" not in params:
        return state
    prefix = f"{_family(params)}."
    return {name if name.startswith(HEAD) else prefix + name: x for name, x in state.items()}


def config(network: Any, params: dict, normalise: bool) -> dict:
    """What transformers' config.json says of a Wav2Vec2Config, and which class reads it.

    `do_normalize`, which transformers keeps elsewhere, is whether utterances are brought to zero
    mean and unit variance.
    """
    family = _family(params)
    name = {"wav2vec2": "Wav2Vec2", "wavlm": "WavLM"}[family]
    found = {
        "model_type": family, "architectures": [name + ("ForCTC" if network.vocab_size
                                                        else "Model")],
        "hidden_size": network.d_model, "num_hidden_layers": network.num_layers,
        "num_attention_heads": network.num_heads, "intermediate_size": network.d_ff,
        "conv_dim": list(network.conv_dims), "conv_kernel": list(network.conv_kernels),
        "conv_stride": list(network.conv_strides), "conv_bias": network.conv_bias,
        "num_feat_extract_layers": len(network.conv_dims), "feat_extract_norm": network.conv_norm,
        "do_stable_layer_norm": network.pre_norm, "feat_extract_activation": "gelu",
        "hidden_act": "gelu", "layer_norm_eps": network.norm_eps,
        "num_conv_pos_embeddings": network.position_kernel,
        "num_conv_pos_embedding_groups": network.position_groups, "do_normalize": normalise}
    if network.vocab_size:
        found["vocab_size"] = network.vocab_size
    if network.relative_buckets:
        found |= {"num_buckets": network.relative_buckets,
                  "max_bucket_distance": network.relative_distance}
    return found


def _family(params: dict) -> str:
    return "wavlm" if "relative_bias" in params else "wav2vec2"


def _at(tree: Any, path: str) -> np.ndarray | None:
    """tree["a"]["b"] for "a/b"; None where that is not there."""
    for part in path.split("/"):
        if part not in tree:
            return None
        tree = tree[part]
    return tree
