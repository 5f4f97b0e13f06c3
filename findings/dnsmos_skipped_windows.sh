#!/usr/bin/env bash
# DNSMOS of speechmos hears only the first 15 seconds of a recording of half a minute.
#
# Guessed: a recording's score is the mean over windows of 9.01 s that begin at every second of it.
# Seen: windows that begin at seconds 7 to 23 (and 119 to 122) are dropped in silence: the slice's
#   end, int((k + 9.01) * 16000) in doubles, is a sample short there, and windows that are short are
#   passed over. Noise in place of the second half of 30 s of speech moves no score by anything.
# Versions: speechmos 0.0.1.1, onnxruntime 1.32.0, librosa 0.11.0, numpy 2.4.6. The published
#   script (microsoft/DNS-Challenge, DNSMOS) slices in the same way.
# Why it matters: whatever goes wrong after 15 s in long generated speech costs nothing.
# avjax: eval/networks/speech/dnsmos.py takes the same windows, so that numbers compare with papers',
#   and says so in the recipe.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > halves.py <<'PY'
import numpy as np
from speechmos import dnsmos

rate, rng = 16000, np.random.default_rng(0)
t = np.arange(30 * rate) / rate
phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t)) / rate
voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * (0.5 + 0.5 * np.sin(6 * np.pi * t)) ** 2
whole = (0.1 * voice + 0.003 * rng.normal(size=len(t))).clip(-1, 1).astype(np.float32)
spoilt = whole.copy()
spoilt[int(15.1 * rate):] = (0.3 * rng.normal(size=len(t) - int(15.1 * rate))).clip(-1, 1)
first, second = (dnsmos.run(x, rate) for x in (whole, spoilt))
print("30 s of a voice:             ", {k: round(float(v), 4) for k, v in first.items()})
print("noise from second 15.1 on:   ", {k: round(float(v), 4) for k, v in second.items()})
noise = dnsmos.run(spoilt[16 * rate:], rate)
print("the noise by itself:         ", {k: round(float(v), 4) for k, v in noise.items()})
print("verdict:", "the same" if first == second and first != noise else "another")
PY
python3 -m venv venv || exit 2
venv/bin/pip install --quiet speechmos==0.0.1.1 onnxruntime==1.32.0 librosa==0.11.0 numpy==2.4.6 \
    requests || exit 2
found=$(venv/bin/python halves.py)
echo "$found"
if [[ $found != *"verdict: the same" ]]; then
    echo "CHANGED: the second half of a recording counts" >&2
    exit 1
fi
echo "as stated: what comes after 15 seconds moves no score"
