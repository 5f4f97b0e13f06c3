#!/usr/bin/env bash
# FFmpeg leaves a place empty among an AVI's pictures when the sound is MP3 or AAC.
#
# Guessed: AVI has no timestamps, so a picture's time is its number over the frame rate, and 50
#   pictures written at 0, 1, 2, ... read back so; sound counts from the first sample.
# Seen: with MP3 or AAC the muxer makes up for the coder's padding (25 and 23 ms at 44.1 kHz) by
#   whole empty places behind the first picture: 50 pictures lie at 0, 2, 3, ..., 50, and the
#   header counts 51. The padding itself is decoded as sound. A flash and a click, both written at
#   1 s, come out at 1.040 and 1.025 s by the clock, at 1.000 and 1.025 s by counting; in MP4 both
#   are at 1.000 s.
# Versions: av 18.1.0 (PyAV, its wheel's FFmpeg 8.1.2), numpy 2.4.6. MPEG-4 video, so that no
#   guessing of H.264's order of pictures comes into it.
# Why it matters: speech corpora with AVI clips pair picture k with the sound at k / fps. By the
#   clock the pictures here are 15 ms late, by counting 25 ms early, in every clip alike: a lip-sync
#   model learns that. And arrays sized by the header's count end with a picture that never was.
# avjax: data_pipelines/media/sound.py (_padding, _hole) moves the sound by both; pictures go by decoded
#   times, and pictures are counted by decoding (data_pipelines/media/containers.py).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet av==18.1.0 numpy==2.4.6 || exit 2

venv/bin/python - <<'PY'
import sys

import av
import numpy as np

FPS, RATE, PICTURES = 25, 44100, 50  # flash and click at 1 s of 2


def write(path, coder):
    with av.open(path, "w") as container:
        video = container.add_stream("mpeg4", FPS)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = container.add_stream(coder, RATE, layout="mono")
        packets = []
        for k in range(PICTURES):
            picture = np.full((64, 64, 3), 255 if k == FPS else 0, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts = k
            packets += video.encode(frame)
        packets += video.encode()
        sound = np.zeros((1, 2 * RATE), np.float32)
        sound[0, RATE:RATE + 100] = 0.9
        frame = av.AudioFrame.from_ndarray(sound, "fltp", "mono")
        frame.sample_rate, frame.pts = RATE, 0
        resampler = av.AudioResampler(audio.format, "mono", RATE)
        for piece in resampler.resample(frame) + resampler.resample(None):
            packets += audio.encode(piece)
        packets += audio.encode()
        timed = [p for p in packets if p.dts is not None]
        container.mux(sorted(timed, key=lambda p: p.dts * p.time_base))


def read(path):
    """(places of the pictures, header's count, flash in s by clock, by counting, click in s)."""
    with av.open(path) as container:
        counted = container.streams.video[0].frames
        frames = list(container.decode(video=0))
    places = [round(f.time * FPS) for f in frames]
    flash = next(k for k, f in enumerate(frames) if f.to_ndarray(format="gray").mean() > 128)
    with av.open(path) as container:
        sound = np.concatenate([f.to_ndarray().ravel() for f in container.decode(audio=0)])
    click = np.argmax(np.abs(sound) > np.abs(sound).max() / 3)
    return places, counted, frames[flash].time, flash / FPS, click / RATE


changed = []
in_order, with_hole = list(range(PICTURES)), [0, *range(2, PICTURES + 1)]
expected = {"pcm.avi": ("pcm_s16le", in_order, 1.0), "mp3.mp4": ("mp3", in_order, 1.0),
            "mp3.avi": ("mp3", with_hole, 1.025), "aac.avi": ("aac", with_hole, 1.023)}
for path, (coder, places, click) in expected.items():
    write(path, coder)
    found = read(path)
    first = ", ".join(map(str, found[0][:4]))
    print(f"{path}: {len(found[0])} pictures at {first}, ..., {found[0][-1]}; header: {found[1]};"
          f" flash at {found[2]:.3f} s, counted {found[3]:.3f} s; click at {found[4]:.3f} s")
    flash = places[FPS] / FPS
    late = abs(found[2] - flash) + abs(found[4] - click)
    if found[:2] != (places, places[-1] + 1) or late > 0.003:
        changed.append(path)
if changed:
    sys.exit(f"CHANGED: pictures or sound lie elsewhere now: {changed}")
print("as stated: one empty place among the pictures, and the padding heard in front of the sound")
PY
