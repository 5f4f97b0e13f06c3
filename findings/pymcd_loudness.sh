#!/usr/bin/env bash
# pymcd calls the same sound at half the loudness a distortion of 7.2 dB.
#
# Guessed: mel-cepstral distortion of a sound and itself at half the amplitude is 0 dB where the
#   0th coefficient (the level) is left out, as is usual, and 10 sqrt(2) / ln 10 * ln 2 = 4.26 dB
#   where it is counted.
# Seen: 7.22 dB, in both modes. Three things meet: the 0th coefficient counts; WORLD's envelope is
#   a power, and is handed to pysptk.mcep as itype=3, an amplitude, so that every difference counts
#   twice; and the 1e-8 that is then added to the square of a power hides quiet bands, so that even
#   the coefficients without the 0th change with loudness (3.98 dB). pysptk.sp2mc, which takes a
#   power, gives 4.26 and 0.00 dB for the same envelopes. A filter 1 + z^-1 / 2 costs 4.17 dB by
#   pymcd, 2.71 by sp2mc, 2.08 without the 0th.
# Versions: pymcd 0.2.1 with pyworld 0.3.5, pysptk 1.0.1, librosa 0.11.0, fastdtw 0.3.4,
#   numpy 2.4.6 (Python 3.11).
# Why it matters: papers' tables differ by tenths of a dB, and print this package's numbers beside
#   those of other definitions. A model that speaks 6 dB quieter than its recordings loses 7 dB by
#   loudness alone, and a normalised loudness wins as much.
# avjax: eval/metrics/published/world_cepstra.py (`MCD_world*`) is this scale under its own name,
#   to be compared with pymcd's numbers only; docs/evaluation.md says so. `MCD*` leaves the 0th out.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet pymcd==0.2.1 pyworld==0.3.5 pysptk==1.0.1 librosa==0.11.0 \
  fastdtw==0.3.4 numpy==2.4.6 soundfile || exit 2

venv/bin/python -W ignore - <<'PY'
import math
import sys

import numpy as np
import pysptk
import pyworld
import soundfile
from pymcd.mcd import Calculate_MCD

RATE = 22050
SCALE = 10 * math.sqrt(2) / math.log(10)

# two seconds of a voice-like buzz whose pitch moves between 100 and 140 Hz
t = np.arange(2 * RATE) / RATE
phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(3 * np.pi * t)) / RATE
sound = sum(np.cos(k * phase) / k for k in range(1, 60)) * 0.1
sound = sound + 1e-3 * np.random.default_rng(0).standard_normal(len(t))
filtered = sound.copy()
filtered[1:] += sound[:-1] / 2


def by_power(first, second):
    """Distortion in dB with and without the 0th coefficient, of envelopes taken as powers."""
    cepstra = []
    for wave in (first, second):
        envelope = pyworld.wav2world(wave.copy(), RATE, frame_period=5.0, fft_size=512)[1]
        cepstra.append(pysptk.sp2mc(envelope, 13, 0.65))
    apart = cepstra[0] - cepstra[1]
    return [SCALE * np.sqrt((apart[:, k:] ** 2).sum(-1)).mean() for k in (0, 1)]


changed = []
soundfile.write("sound.wav", sound, RATE, subtype="FLOAT")
for name, other, expected in (("half the amplitude", sound / 2, (7.22, 4.26, 0.0)),
                              ("filtered", filtered, (4.17, 2.71, 2.08))):
    soundfile.write("other.wav", other, RATE, subtype="FLOAT")
    plain, warped = (Calculate_MCD(mode).calculate_mcd("sound.wav", "other.wav")
                     for mode in ("plain", "dtw"))
    found = (plain, *by_power(sound, other))
    print(f"{name}: pymcd {plain:.2f} (plain) {warped:.2f} (dtw); envelopes as powers"
          f" {found[1]:.2f}, without the 0th {found[2]:.2f} dB")
    if max(abs(a - b) for a, b in zip(found, expected)) > 0.05 or abs(plain - warped) > 0.05:
        changed.append(name)
if changed:
    sys.exit(f"CHANGED: {changed}")
print("as stated: loudness alone is a distortion of 7 dB")
PY
