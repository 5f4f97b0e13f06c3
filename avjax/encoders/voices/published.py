"""The published names of WavLM with ECAPA-TDNN (`wavlm_large_finetune.pth`) -> our parameters.

    feature_extract.model.*   the encoder, as its own code names it (avjax.encoders.published)
    feature_weight            what its L + 1 states are weighed by, before a softmax
    layer1.*, ..., linear.*   ECAPA-TDNN

VoxSim's `wavlm_ecapa.model` has the same names behind `__S__.`, as voxceleb_trainer saves networks.
Batch norms are folded to a scale and a bias, the softmax is taken.
"""

import re

import numpy as np
from scipy import special

from avjax.encoders.published import wav2vec2
from avjax.encoders.voices.ecapa import DILATIONS, SCALE, EcapaConfig
from avjax.errors import UserError
from avjax.weights import names
from avjax.weights.fold import put

ENCODER = "feature_extract.model."
SAVED = "__S__."
WHAT = "these are not the weights of WavLM with ECAPA-TDNN"
HINT = "give the fine-tuned speaker verification model, wavlm_large_finetune.pth"
_IGNORED = r"loss_calculator\..*|.*\.num_batches_tracked"  # of training
_EPS = 1e-5

UNITS = {"layer1": ("layer1.conv", "layer1.bn")}  # ours: (convolution, batch norm)
DENSE = {"top": "conv", "attention_in": "pooling.linear1", "attention_out": "pooling.linear2",
         "embedding": "linear"}
for _layer in DILATIONS:
    UNITS |= {f"{_layer}/{ours}": (f"{_layer}.{theirs}.conv", f"{_layer}.{theirs}.bn")
              for ours, theirs in (("first", "Conv1dReluBn1"), ("last", "Conv1dReluBn2"))}
    UNITS |= {f"{_layer}/split_{i}": tuple(f"{_layer}.Res2Conv1dReluBn.{kind}.{i}"
                                           for kind in ("convs", "bns"))
              for i in range(SCALE - 1)}
    DENSE |= {f"{_layer}/squeeze": f"{_layer}.SE_Connect.linear1",
              f"{_layer}/excite": f"{_layer}.SE_Connect.linear2"}


def import_params(state: dict[str, np.ndarray], where: str = "") -> dict:
    """{published name: array} -> {"encoder": of Wav2Vec2, "weight_L": (L + 1,), "ecapa": of
    Ecapa}, float32. Raises Unlike (a UserError), which lists every array that is missing, left over
    or of another shape, of either part."""
    state = {n.removeprefix(SAVED): x for n, x in state.items()}
    outer = {n: np.asarray(x, np.float32) for n, x in state.items()
             if not n.startswith(ENCODER) and not re.fullmatch(_IGNORED, n)}
    if "feature_weight" not in outer or not any(n.startswith(ENCODER) for n in state):
        raise UserError(WHAT, where=where, expected=f"{ENCODER}*, feature_weight, layer1.*, ...",
                        found=", ".join(names.together(sorted(state))[:8]), hint=HINT)
    encoder = wav2vec2.import_inside(state, ENCODER, outer, lambda own: _expected(state, own), WHAT,
                                     where, HINT)
    ecapa: dict = {}
    for ours, (conv, norm) in UNITS.items():
        put(ecapa, f"{ours}/conv/kernel", outer[f"{conv}.weight"].transpose(2, 1, 0))
        put(ecapa, f"{ours}/conv/bias", outer[f"{conv}.bias"])
        _put_norm(ecapa, f"{ours}/norm", outer, norm)
    for ours, theirs in DENSE.items():
        weight = outer[f"{theirs}.weight"]
        put(ecapa, f"{ours}/kernel", weight.reshape(weight.shape[:2]).T)
        put(ecapa, f"{ours}/bias", outer[f"{theirs}.bias"])
    _put_norm(ecapa, "norm", outer, "bn")
    return {"encoder": encoder, "weight_L": special.softmax(outer["feature_weight"]),
            "ecapa": ecapa}


def sizes(ecapa: dict) -> EcapaConfig:
    """Of imported parameters."""
    return EcapaConfig(channels=len(ecapa["layer1"]["conv"]["bias"]),
                       top_channels=len(ecapa["top"]["bias"]),
                       squeezed=len(ecapa["layer2"]["squeeze"]["bias"]),
                       attention=len(ecapa["attention_in"]["bias"]),
                       embedding=len(ecapa["embedding"]["bias"]))


def _put_norm(params: dict, ours: str, state, theirs: str) -> None:
    scale = state[f"{theirs}.weight"] / np.sqrt(state[f"{theirs}.running_var"] + _EPS)
    put(params, f"{ours}/scale", scale)
    put(params, f"{ours}/bias", state[f"{theirs}.bias"] - state[f"{theirs}.running_mean"] * scale)


def _expected(state, encoder: dict | None) -> dict[str, names.Shape]:
    """{published name: shape} of the part behind the encoder; sizes that the file's biases show."""
    def width(name):
        return state[f"{name}.bias"].size if f"{name}.bias" in state else None

    features = width(f"{ENCODER}encoder.layer_norm")
    channels, top = width("layer1.conv"), width("conv")
    split = channels and channels // SCALE
    squeezed, attention = width("layer2.SE_Connect.linear1"), width("pooling.linear1")
    pooled = top and 2 * top
    joined = channels and len(DILATIONS) * channels
    layers = len(encoder["layers"]["query"]["kernel"]) if encoder else None
    out = {"feature_weight": (layers and layers + 1,)}
    norms = {"bn": pooled}
    for ours, (conv, norm) in UNITS.items():
        one = split if "split" in ours else channels
        shape = (one, features, 5) if ours == "layer1" else (one, one, 3 if "split" in ours else 1)
        out |= {f"{conv}.weight": shape, f"{conv}.bias": (one,)}
        norms[norm] = one
    for name, size in norms.items():
        out |= {f"{name}.{part}": (size,)
                for part in ("weight", "bias", "running_mean", "running_var")}
    for layer in DILATIONS:
        out |= {f"{layer}.SE_Connect.linear1.weight": (squeezed, channels),
                f"{layer}.SE_Connect.linear1.bias": (squeezed,),
                f"{layer}.SE_Connect.linear2.weight": (channels, squeezed),
                f"{layer}.SE_Connect.linear2.bias": (channels,)}
    return out | {"conv.weight": (top, joined, 1), "conv.bias": (top,),
                  "pooling.linear1.weight": (attention, top, 1),
                  "pooling.linear1.bias": (attention,),
                  "pooling.linear2.weight": (top, attention, 1), "pooling.linear2.bias": (top,),
                  "linear.weight": (width("linear"), pooled), "linear.bias": (width("linear"),)}
