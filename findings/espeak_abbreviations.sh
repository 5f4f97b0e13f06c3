#!/usr/bin/env bash
# espeak-ng pauses within a sentence at some abbreviations, and its events do not tell which.
#
# Guessed: the point of an abbreviation before a capital or a number is silent, as in "Dr. Smith";
#   and where espeak-ng reports the end of a clause (event 5) there is a pause, elsewhere there is
#   none.
# Seen: in en-us "Jan. 3", "No. 3", "Gov. Smith" and "U.S. Senate" are torn by 0.3 s of silence,
#   as long as between two sentences. "Dr. Smith" and "Prof. Smith" are not, but report the end of
#   a clause there all the same. Without the point there is neither.
# Versions: espeakng-loader 0.2.4 (espeak-ng 1.52.0), numpy 2.4.6.
# Why it matters: text to speech for talking avatars takes phonemes or whole voices from
#   espeak-ng. A pause inside a phrase shuts the mouth and resets the head's motion there; and
#   whoever cuts speech into sentences at the events cuts "Dr. Smith" in two.
# avjax: avjax/encoders/sentences.py decides where sentences end; avjax/encoders/espeak.py speaks
#   clause by clause and takes out the silence at a point that ends nothing (_without_pauses).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet espeakng-loader==0.2.4 numpy==2.4.6 || exit 2

venv/bin/python - <<'PY'
import ctypes
import sys

import espeakng_loader
import numpy as np

SYNCHRONOUS, DONT_EXIT, UTF8, CLAUSE_END = 2, 0x8000, 1, 5
QUIET = 50  # of 32767


class Event(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("id", ctypes.c_uint), ("position", ctypes.c_int),
                ("length", ctypes.c_int), ("ms", ctypes.c_int), ("sample", ctypes.c_int),
                ("user", ctypes.c_void_p), ("value", ctypes.c_char * 8)]


pieces, ends = [], []


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int,
                  ctypes.POINTER(Event))
def receive(samples, count, events):
    if count > 0:
        pieces.append(np.ctypeslib.as_array(samples, (count,)).astype(int))
    i = 0
    while events[i].type:
        if events[i].type == CLAUSE_END:
            ends.append(events[i].position)
        i += 1
    return 0


lib = ctypes.CDLL(espeakng_loader.get_library_path())
rate = lib.espeak_Initialize(SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), DONT_EXIT)
lib.espeak_SetSynthCallback(receive)
lib.espeak_SetVoiceByName(b"en-us")


def speak(text):
    """(seconds of the longest silence between two sounds, number of clause ends)."""
    pieces.clear()
    ends.clear()
    encoded = text.encode() + b"\0"
    lib.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 1, 0, UTF8, None, None)
    loud = np.flatnonzero(np.abs(np.concatenate(pieces)) > QUIET)
    return np.diff(loud).max() / rate, len(ends)


changed = []
for text, pause in (("We met. Smith left.", True), ("We met on Jan. 3 at noon.", True),
                    ("Room No. 3 is free.", True), ("We saw Gov. Smith.", True),
                    ("The U.S. Senate met.", True), ("We met Dr. Smith at noon.", False),
                    ("We saw Prof. Smith.", False)):
    seconds, count = speak(text)
    without, count_without = speak(text[:-1].replace(".", "") + ".")
    print(f"{text:28} silence {seconds:.2f} s, clause ends {count};"
          f" without the point {without:.2f} s, {count_without}")
    if (seconds > 0.2, without > 0.2, count, count_without) != (pause, False, 2, 1):
        changed.append(text)
if changed:
    sys.exit(f"CHANGED: espeak-ng speaks otherwise now: {changed}")
print("as stated: some points in a sentence are spoken as its end, others only reported so")
PY
