#!/usr/bin/env bash
# silero-vad 6.2.3 holds two voice activity networks for 16 kHz under one version.
#
# Guessed: the files of one wheel (.jit, .onnx, .safetensors) are one network in several formats, so
#   that a reader of the handiest, safetensors, gives what the package itself gives.
# Seen: silero_vad_16k.safetensors has the names, shapes and Fourier kernel of the network that the
#   package loads by default, and other weights. Probabilities of speech differ by up to 0.43 on
#   recorded speech, by 0.77 on the synthetic voice below; nothing says so.
# Versions: silero-vad 6.2.3, onnxruntime 1.31.1, onnx 1.23.2, safetensors 0.8.0, numpy 2.4.6.
# Why it matters: who speaks when decides turns, pauses and which channel's tokens are kept; a port
#   checked against the package on one file and shipped with the other cuts elsewhere.
# avjax: avjax/encoders/voice_activity/silero.py reads silero_vad_16k_op15.onnx, the default network.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > compare.py <<'PY'
import importlib.util
import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from safetensors.numpy import load_file

data = pathlib.Path(importlib.util.find_spec("silero_vad").submodule_search_locations[0], "data")
graph = onnx.load(data / "silero_vad_16k_op15.onnx").graph
first = {i.name.removeprefix("model."): numpy_helper.to_array(i) for i in graph.initializer}
second = load_file(data / "silero_vad_16k.safetensors")
pairs = {"stft.forward_basis_buffer": "stft_conv.weight", "decoder.decoder.2.weight":
         "final_conv.weight", "decoder.decoder.2.bias": "final_conv.bias"}
pairs |= {f"encoder.{k}.reparam_conv.{p}": f"conv{k + 1}.{p}" for k in range(4)
          for p in ("weight", "bias")}
pairs |= {f"decoder.rnn.{n}": f"lstm_cell.{n}"
          for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
second = {a: second[b] for a, b in pairs.items()}
assert all(first[n].shape == second[n].shape for n in pairs)
same = [n for n in pairs if np.array_equal(first[n], second[n])]
print(f"arrays of one shape: {len(pairs)}, equal: {len(same)} ({', '.join(same)})")


def probabilities(w, audio):
    hidden, cell, out = np.zeros(128), np.zeros(128), []
    audio = np.pad(audio, (64, 0))
    for start in range(0, len(audio) - 575, 512):
        x = audio[start:start + 576]
        x = np.concatenate([x, x[-2:-66:-1]])
        x = np.stack([w["stft.forward_basis_buffer"][:, 0] @ x[i:i + 256]
                      for i in range(0, 385, 128)], 1)
        x = np.hypot(x[:129], x[129:])
        for k, stride in enumerate((1, 2, 2, 1)):
            x = np.pad(x, ((0, 0), (1, 1)))
            kernel, bias = (w[f"encoder.{k}.reparam_conv.{p}"] for p in ("weight", "bias"))
            x = np.maximum(np.stack([np.einsum("oik,ik->o", kernel, x[:, t:t + 3]) + bias
                                     for t in range(0, x.shape[1] - 2, stride)], 1), 0)
        r = {n: w[f"decoder.rnn.{n}"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        i, f, g, o = np.split(r["weight_ih"] @ x[:, 0] + r["bias_ih"] + r["weight_hh"] @ hidden
                              + r["bias_hh"], 4)
        cell = cell / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        hidden = np.tanh(cell) / (1 + np.exp(-o))
        logit = w["decoder.decoder.2.weight"][0, :, 0] @ np.maximum(hidden, 0)
        out.append(1 / (1 + np.exp(-logit - w["decoder.decoder.2.bias"][0])))
    return np.array(out)


# a voice: pulses of a gliding pitch through three resonances, in syllables, beside a little noise
rate, rng = 16000, np.random.default_rng(0)
t = np.arange(6 * rate // 512 * 512) / rate
pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * t)
pulses = np.diff(np.floor(np.cumsum(pitch) / rate), prepend=0)
voice = np.zeros(len(t))
for k, (formant, width) in enumerate(((550, 80), (1400, 100), (2500, 140))):
    glide = formant * (1 + 0.2 * np.sin(2 * np.pi * (1.1 + k / 3) * t))
    r, y1, y2 = np.exp(-np.pi * width / rate), 0.0, 0.0
    for n in range(len(t)):
        y = pulses[n] + 2 * r * np.cos(2 * np.pi * glide[n] / rate) * y1 - r * r * y2
        y1, y2 = y, y1
        voice[n] += y / (k + 1)
voice *= np.maximum(0, np.sin(2 * np.pi * 2.0 * t)) * (np.sin(2 * np.pi * 0.25 * t) > -0.5)
audio = (0.1 * voice / voice.std() + 0.002 * rng.normal(size=len(t))).astype(np.float32)

session = onnxruntime.InferenceSession(data / "silero_vad.onnx")
state, before, default = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
for start in range(0, len(audio), 512):
    chunk = audio[start:start + 512]
    value, state = session.run(None, {"input": np.concatenate([before, chunk])[None],
                                      "state": state, "sr": np.array(16000, np.int64)})
    before = chunk[-64:]
    default.append(value[0, 0])
one, other = probabilities(first, audio), probabilities(second, audio)
print(f"silero_vad.onnx by onnxruntime and silero_vad_16k_op15.onnx by the formula: "
      f"{np.abs(np.array(default) - one).max():.1e} apart")
print(f"silero_vad_16k.safetensors by the formula: {np.abs(one - other).max():.2f} apart")
right = np.abs(np.array(default) - one).max() < 1e-4 and np.abs(one - other).max() > 0.3
print("verdict:", "two networks" if right and len(same) < len(pairs) / 2 else "another")
PY
python3 -m venv venv || exit 2
venv/bin/pip install --quiet --no-deps silero-vad==6.2.3 || exit 2
venv/bin/pip install --quiet onnxruntime==1.31.1 onnx==1.23.2 safetensors==0.8.0 numpy==2.4.6 ||
    exit 2
found=$(venv/bin/python compare.py)
echo "$found"
if [[ $found != *"verdict: two networks" ]]; then
    echo "CHANGED: the files of silero-vad 6.2.3 agree, or differ otherwise" >&2
    exit 1
fi
echo "as stated: silero_vad_16k.safetensors is another network than the package's default"
