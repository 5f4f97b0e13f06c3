"""Films that say what they are: a white picture and a click at the same moment, in any container
and codec."""

import fractions

import av
import numpy as np

# x265 4.1 writes beyond its memory for pictures of less than 64 pixels a side.
FPS, SECONDS, AT, SIDE = 30, 2.4, 1.6, 64
_PIXELS = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p", "qtrle": "rgb24", "huffyuv": "yuv422p"}
_FAST = {"libx264": {"preset": "veryfast"},
         "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:bframes=2"},
         "libvpx": {"deadline": "realtime", "cpu-used": "8"},
         "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}}


def click(rate: int, seconds: float = SECONDS, at: float = AT) -> np.ndarray:
    """(N,) float32 with 5 ms of sound at `at`."""
    out = np.zeros(round(seconds * rate), np.float32)
    out[round(at * rate) : round(at * rate) + rate // 200] = 0.8
    return out


def write(path, container: str, video: str | None, audio: str | None, *, rate: int = 48000,
          fps: int = FPS, sound=None,
          layout: str = "mono", muxer=None, prepare=None):
    """Writes SECONDS. sound: (C, N) instead of the click; prepare: called with the video stream
    before anything is written."""
    with av.open(str(path), "w", format=container, options=muxer or {}) as out:
        packets = []
        if video:
            stream = out.add_stream(video, rate=fps)
            stream.width = stream.height = SIDE
            stream.pix_fmt, stream.options = _PIXELS.get(video,
                                                         "yuv420p"), dict(_FAST.get(video, {}))
            if prepare:
                prepare(stream)
        if audio:
            track = out.add_stream(audio, rate=rate, layout=layout)
            track.options = {"compression_level": "0"} if audio == "libopus" else {}
        for k in range(round(SECONDS * fps) if video else 0):
            image = np.full((SIDE, SIDE, 3), 255 if k == round(AT * fps) else 20, np.uint8)
            image[:8, : 8 + k % 40] = 128
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = k, fractions.Fraction(1, fps)
            packets += stream.encode(frame)
        packets += stream.encode(None) if video else []
        if audio:
            x_CN = click(rate)[None] if sound is None else sound
            frame = av.AudioFrame.from_ndarray(np.array(x_CN.T, np.float32,
                                                        order="C").reshape(1, -1), "flt", layout)
            frame.rate, frame.pts = rate, 0
            resampler = av.AudioResampler(format=track.format.name, layout=layout, rate=rate)
            for piece in (*resampler.resample(frame), *resampler.resample(None)):
                packets += track.encode(piece)
            packets += track.encode(None)
        for packet in sorted(packets, key=lambda p: float((p.dts or 0) * p.time_base)):
            out.mux(packet)
    return path


def again(source, path, container: str, moved=lambda stream, time: time, muxer=None):
    """Copies packets without decoding them; moved(stream, time in seconds) is the new time, None
    leaves the packet out."""
    with av.open(str(source)) as read, av.open(str(path), "w", format=container,
                                               options=muxer or {}) as out:
        to = {s.index: out.add_stream_from_template(s) for s in read.streams}
        for packet in read.demux():
            if packet.dts is None:
                continue
            time = moved(packet.stream, float(packet.pts * packet.time_base))
            if time is None:
                continue
            ticks = round(time / packet.time_base) - packet.pts
            packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, to[
                packet.stream_index]
            out.mux(packet)
    return path
