#!/usr/bin/env bash
# Asking a PyAV frame for its side data keeps the frame's pixels until garbage is collected.
#
# Guessed: a decoded frame goes when the loop moves on, whatever was asked of it; a loop over a
#   video of any length needs the decoder's few frames.
# Seen: `frame.side_data` is a container that refers to the frame, and the frame keeps it: a cycle,
#   which reference counting never frees. The cyclic collector counts objects, not bytes: at one
#   small cycle a frame it comes by after hundreds of frames, at 3 MB each for 1080 x 1920 pixels.
#   Reading 150 such frames and asking each whether it is turned (the display matrix is side data)
#   takes 395 MB; without asking, 76.
# Versions: av 18.1.0 (PyAV), numpy 2.4.6, Python 3.11.
# Why it matters: readers of phone recordings look at the display matrix of every frame. A loader of
#   several workers then holds gigabytes of frames that nobody uses, and spends its time on fresh
#   memory.
# avjax: data_pipelines/media/video.py (_TURNED) looks at key frames only, at most once a second.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet av==18.1.0 numpy==2.4.6 || exit 2

venv/bin/python - <<'PY'
import gc
import sys

import av
import numpy as np

FRAMES = 60
with av.open("a.mp4", "w") as container:
    stream = container.add_stream("mpeg4", 30)
    stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
    for k in range(FRAMES):
        image = np.full((240, 320, 3), 4 * k, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
    container.mux(stream.encode())


def left(ask):
    """Frames that are still there after a loop that keeps none."""
    gc.collect()
    gc.disable()
    with av.open("a.mp4") as container:
        for frame in container.decode(video=0):
            if ask:
                frame.side_data.get("DISPLAYMATRIX")
        del frame
    count = sum(isinstance(x, av.VideoFrame) for x in gc.get_objects())
    gc.enable()
    return count


found = {"not asked": left(False), "asked for side data": left(True)}
for how, count in found.items():
    print(f"{how}: {count} of {FRAMES} frames are still there after the loop")
if list(found.values()) != [0, FRAMES]:
    sys.exit(f"CHANGED: {found}")
print("as stated: only the garbage collector frees a frame that was asked for its side data")
PY
