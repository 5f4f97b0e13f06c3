"""Films for the readers of named corpora that say what time it is: how bright the picture is, and
how high the tone."""

import fractions
import pathlib

import av
import numpy as np

STEP, FLOOR = 4, 20  # grey levels of a picture: FLOOR, and STEP more each, 50 pictures in turn
LOWEST, HIGHER = 300, 100  # Hz in the first second, and so much more in each further one


def tone(seconds: float, rate: int, loud: float = 0.4) -> np.ndarray:
    """(N,) float32."""
    t = np.arange(round(seconds * rate)) / rate
    return (loud * np.sin(2 * np.pi * np.cumsum(LOWEST + HIGHER * np.floor(t)) / rate)).astype(
        np.float32)


def film(path, seconds: float = 2.4, *, fps: int = 25, width: int = 64, height: int = 64,
         rate: int = 16000, sound: np.ndarray | None = None, mute: bool = False,
         left: int | None = None) -> pathlib.Path:
    """Writes one. left: from this column on the pictures are as said, before it black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        pictures = out.add_stream("libx264", rate=fps)
        pictures.width, pictures.height, pictures.pix_fmt = width, height, "yuv420p"
        pictures.options = {"preset": "ultrafast", "g": "10"}
        track = None if mute else out.add_stream("aac", rate=rate, layout="mono")
        packets = []
        for k in range(round(seconds * fps)):
            image = np.full((height, width, 3), FLOOR + STEP * (k % 50), np.uint8)
            image[:, :left or 0] = 0
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = k, fractions.Fraction(1, fps)
            packets += pictures.encode(frame)
        packets += pictures.encode(None)
        if track:
            sound = tone(seconds, rate) if sound is None else sound
            frame = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
            frame.rate, frame.pts = rate, 0
            packets += [*track.encode(frame), *track.encode(None)]
        for packet in sorted(packets, key=lambda p: float((p.dts or 0) * p.time_base)):
            out.mux(packet)
    return path


def pictures_at(pictures: np.ndarray) -> list[int]:
    """Which of the film's pictures each of (T, H, W, 3) is, 0 to 49."""
    return np.round((pictures.mean((1, 2, 3)) - FLOOR) / STEP).astype(int).tolist()


def seconds_heard(audio: np.ndarray, rate: int = 22050) -> list[int]:
    """Which second of the film each half second of (N,) is from."""
    out = []
    for k in range(0, len(audio) - rate // 2 + 1, rate // 2):
        power = np.abs(np.fft.rfft(audio[k:k + rate // 2] * np.hanning(rate // 2)))
        out.append(round((power.argmax() * 2 - LOWEST) / HIGHER))
    return out
