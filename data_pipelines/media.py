"""Sound and pictures in and out of files, by timestamps.

Reading lives in modules of its own, whose functions are named here: `containers` (what is in a file, its clock),
`sound`, `video` and `whole` (is it all there?). This one writes.
"""

import fractions
import os
import pathlib
import tempfile

import av
import numpy as np

from avjax.errors import UserError
from data_pipelines import sound
from data_pipelines.containers import AUDIO_SUFFIXES, VIDEO_SUFFIXES, MediaError, Probe, Stream, probe
from data_pipelines.sound import Sound, first_time, read_audio
from data_pipelines.video import frames_at, iterate_video, video_times
from data_pipelines.whole import check_riff, check_whole

read_sound = sound.read
__all__ = ["AUDIO_SUFFIXES", "VIDEO_SUFFIXES", "MediaError", "Probe", "Sound", "Stream", "check_riff", "check_whole",
           "first_time", "frames_at", "iterate_video", "probe", "read_audio", "read_sound", "video_times", "write_mp4"]


def write_mp4(path, frames, fps: float = 30.0, audio: np.ndarray | None = None, rate: int = 22050, crf: int = 18):
    """Writes H.264 (+ AAC) through a temporary file, so that `path` is whole or absent.

    frames: iterable of (H, W, 3) uint8, all of one size (odd sizes gain an edge pixel); audio: (N,) float in [-1, 1].
    Raises UserError when there are no frames, sizes differ, or sound and pictures differ by more than 0.25 s.
    """
    path = pathlib.Path(path)
    frames = list(frames)
    if not len(frames):
        raise UserError("no frames to write", where=str(path), expected=">= 1", found="0")
    if audio is not None and abs(len(frames) / fps - len(audio) / rate) > 0.25:
        raise UserError("sound and pictures differ in length", where=str(path), expected="within 0.25 s",
                        found=f"{len(frames) / fps:.2f} s of pictures, {len(audio) / rate:.2f} s of sound")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".tmp")
    os.close(handle)
    try:
        with av.open(temporary, "w", format="mp4", options={"movflags": "faststart"}) as container:
            _encode(container, path, frames, fps, audio, rate, crf)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _encode(container, path, frames, fps, audio, rate, crf):
    height, width = frames[0].shape[:2]
    video = container.add_stream("libx264", rate=fractions.Fraction(fps).limit_denominator(1001))
    video.width, video.height, video.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
    video.options = {"crf": str(crf), "preset": "veryfast"}
    sound = None
    if audio is not None:
        sound = container.add_stream("aac", rate=rate, layout="mono")
    for image in frames:
        if image.shape != (height, width, 3) or image.dtype != np.uint8:
            raise UserError("frames differ in size or type", where=str(path), expected=f"({height}, {width}, 3) uint8",
                            found=f"{image.shape} {image.dtype}")
        image = np.pad(image, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge")
        for packet in video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")):
            container.mux(packet)
    for packet in video.encode(None):
        container.mux(packet)
    if sound is not None:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio, np.float32)[None], format="fltp", layout="mono")
        frame.rate, frame.pts = rate, 0
        for packet in [*sound.encode(frame), *sound.encode(None)]:
            container.mux(packet)
