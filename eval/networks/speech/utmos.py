"""UTMOS22-strong: how natural speech sounds, on the scale of mean opinion scores from 1 to 5.

Saeki et al. 2022 (arXiv:2204.02152), the strong learner without its phoneme encoder, as published
free of fairseq: wav2vec 2.0 base on the bare waveform at 16 kHz; beside each of its frames two
constant vectors, of the domain and of the judge; a bidirectional LSTM; two linear layers with ReLU
between them; the mean over time, times 2, plus 3. The published network has no mask: here every
utterance of a batch gets what it would get alone.

Suffixes: B batch, N samples, T frames, D width, H states of the LSTM in one direction, G its four
gates in the order input, forget, cell, output.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from avjax.encoders import windows
from avjax.encoders.published import wav2vec2 as published
from avjax.encoders.published.stated import stated
from avjax.encoders.wav2vec2 import Wav2Vec2, Wav2Vec2Config, config_of
from avjax.sharding import rows
from avjax.sharding.mesh import replicated
from avjax.weights import names
from avjax.weights.reader import read_state_dict
from eval.networks.speech.kept import Kept
from eval.networks.speech.sound import at_16khz, is_silent

ENCODER = "wav2vec2."
WHAT = "these are not the weights of UTMOS22-strong"
HINT = "give utmos22_strong_step7459_v1.pt of SpeechMOS"
SCALE, OFFSET = 2.0, 3.0


def import_params(state: dict[str, np.ndarray], where: str = "") -> dict:
    """{published name: array} -> {"encoder": of Wav2Vec2, "constant_D": domain, then judge,
    "forward" and "backward": of the LSTM, "hidden", "score": linear layers}, float32. Raises Unlike
    (a UserError), which lists every array that is missing, left over or of another shape."""
    outer = {n: np.asarray(x, np.float32) for n, x in state.items() if not n.startswith(ENCODER)}
    encoder = published.import_inside(state, ENCODER, outer, lambda own: _expected(outer, own),
                                      WHAT, where, HINT)

    def direction(end: str) -> dict:
        return {"input": outer[f"blstm.weight_ih_l0{end}"].T,
                "hidden": outer[f"blstm.weight_hh_l0{end}"].T,
                "bias": outer[f"blstm.bias_ih_l0{end}"] + outer[f"blstm.bias_hh_l0{end}"]}

    def linear(name: str) -> dict:
        return {"kernel": outer[f"{name}.weight"].T, "bias": outer[f"{name}.bias"]}

    return {"encoder": encoder,
            "constant_D": np.concatenate([outer["domain_emb"][0], outer["judge_emb"][0]]),
            "forward": direction(""), "backward": direction("_reverse"),
            "hidden": linear("projection.0"), "score": linear("projection.2")}


def _expected(outer: dict[str, np.ndarray], encoder: dict | None) -> dict[str, names.Shape]:
    """{published name: shape} of the part behind the encoder; sizes that the file itself shows."""
    def size(name: str, axis: int) -> int | None:
        return outer[name].shape[axis] if name in outer and outer[name].ndim == 2 else None

    domain, judge = size("domain_emb", 1), size("judge_emb", 1)
    states, hidden = size("blstm.weight_hh_l0", 1), size("projection.0.weight", 0)
    width = len(encoder["norm"]["scale"]) if encoder else None
    joined = None if None in (width, domain, judge) else width + domain + judge
    out = {"domain_emb": (1, domain), "judge_emb": (1, judge)}
    for end in ("", "_reverse"):
        gates = states and 4 * states
        out |= {f"blstm.weight_ih_l0{end}": (gates, joined),
                f"blstm.weight_hh_l0{end}": (gates, states),
                f"blstm.bias_ih_l0{end}": (gates,), f"blstm.bias_hh_l0{end}": (gates,)}
    return out | {"projection.0.weight": (hidden, states and 2 * states),
                  "projection.0.bias": (hidden,),
                  "projection.2.weight": (1, hidden), "projection.2.bias": (1,)}


def network(config: Wav2Vec2Config, params: dict, x_BN, lengths_B) -> dict[str, jax.Array]:
    """Waveforms at 16 kHz, padded behind, and their lengths -> `score` (B,), and what leads there:
    `encoded` (B, T, D), `lstm` (B, T, 2 H), `frame_scores` (B, T). Frames behind the `frames` (B,)
    of an utterance mean nothing."""
    out = Wav2Vec2(config).apply({"params": params["encoder"]}, x_BN, lengths_B)
    encoded_BTD, frames_B = out["last_hidden"], out["frames"]
    constant_D = params["constant_D"]
    constant_BTD = jnp.broadcast_to(constant_D, (*encoded_BTD.shape[:2], len(constant_D)))
    joined_BTD = jnp.concatenate([encoded_BTD, constant_BTD], -1)
    valid_BT = jnp.arange(encoded_BTD.shape[1]) < frames_B[:, None]
    lstm_BTH = jnp.concatenate([_lstm(params["forward"], joined_BTD, valid_BT),
                                _lstm(params["backward"], joined_BTD, valid_BT, reverse=True)], -1)
    hidden_BTD = jax.nn.relu(_linear(params["hidden"], lstm_BTH))
    score_BT = _linear(params["score"], hidden_BTD)[..., 0]
    mean_B = jnp.where(valid_BT, score_BT, 0).sum(1) / frames_B
    return {"encoded": encoded_BTD, "lstm": lstm_BTH, "frame_scores": score_BT,
            "frames": frames_B, "score": SCALE * mean_B + OFFSET}


def _linear(layer: dict, x):
    return x @ layer["kernel"] + layer["bias"]


def _lstm(layer: dict, x_BTD, valid_BT, *, reverse: bool = False):
    """States (B, T, H) from zeros; padding changes none, so that backwards begins at the end of
    each utterance."""
    gates_TBG = jnp.swapaxes(x_BTD @ layer["input"] + layer["bias"], 0, 1)

    def step(state, now):
        (hidden_BH, cell_BH), (gates_BG, valid_B1) = state, now
        i, f, g, o = jnp.split(gates_BG + hidden_BH @ layer["hidden"], 4, axis=-1)
        new_BH = jax.nn.sigmoid(f) * cell_BH + jax.nn.sigmoid(i) * jnp.tanh(g)
        cell_BH = jnp.where(valid_B1, new_BH, cell_BH)
        hidden_BH = jnp.where(valid_B1, jax.nn.sigmoid(o) * jnp.tanh(cell_BH), hidden_BH)
        return (hidden_BH, cell_BH), hidden_BH

    zeros_BH = jnp.zeros((x_BTD.shape[0], layer["hidden"].shape[0]))
    states_TBH = jax.lax.scan(step, (zeros_BH, zeros_BH), (gates_TBG, valid_BT.T[..., None]),
                              reverse=reverse)[1]
    return jnp.swapaxes(states_TBH, 0, 1)


class Utmos:
    """Waveforms -> scores.

    Args:
      path: of the published file. UserError: it is of another network.
      mesh: utterances are split over its data axes; None = `rows.devices`.
    """

    def __init__(self, path, mesh: Mesh | None = None):
        params = import_params(read_state_dict(path), where=str(path))
        self._config, self._mesh = config_of(params["encoder"], found=stated(path)), (
            mesh or rows.devices())
        self._params = jax.device_put(params, replicated(self._mesh))
        self._kept = Kept(self._made)

    def __call__(self, waves: Sequence[np.ndarray], rate: int) -> list[float]:
        """(n_i,) float samples at `rate` -> a score each, together where they are of like length;
        NaN of silence or less than a frame."""
        return self._kept([at_16khz(wave_N, rate) for wave_N in waves])

    def ahead(self, waves: Sequence[np.ndarray], rate: float) -> None:
        """Hears several together, to know them when they are asked for."""
        self(waves, rate)

    def _made(self, heard: list[np.ndarray]) -> list[float]:
        judged = [i for i, wave_N in enumerate(heard)
                  if len(wave_N) >= self._config.min_samples() and not is_silent(wave_N)]
        run = functools.partial(_score, self._config, self._params)
        made = rows.through(run, [(heard[i],) for i in judged], self._mesh,
                            padded=windows.bucket, most=windows.most)
        out = [float("nan")] * len(heard)
        for i, score in zip(judged, made, strict=True):
            out[i] = float(score)
        return out


@functools.partial(jax.jit, static_argnums=0)
def _score(config: Wav2Vec2Config, params, x_BN, lengths_B):
    with jax.default_matmul_precision("float32"):
        return network(config, params, x_BN, lengths_B)["score"]


load = Utmos
