"""Sound, pictures and plots of the report as bytes and as HTML elements that need no other file."""

import base64
import html
import io
import pathlib
import tempfile

import numpy as np
from PIL import Image

from data_pipelines.media import write_media


def player(benchmark, title: str, signals, identity) -> str:
    """A <figure> with a video player, or an audio player where there are no pictures; "" where
    there is nothing to see or to hear."""
    if not signals.has_audio and not signals.has_motion:
        return ""
    video = video_and_poster(benchmark, signals, identity)
    if video:
        clip, poster = video
        element = (f"<video controls preload=metadata aria-label='{_attribute(title)}' "
                   f"poster='{_data('image/jpeg', poster)}' "
                   f"src='{_data('video/mp4', clip)}'></video>")
    else:
        sound = signals.waveform if signals.has_audio else np.zeros(1, np.float32)
        wave = wav_bytes(sound, benchmark.sample_rate)
        element = (f"<audio controls aria-label='{_attribute(title)}' "
                   f"src='{_data('audio/wav', wave)}'></audio>")
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{element}</figure>"


def picture(png: bytes, alt: str, file: str = "") -> str:
    """An <img>. `file`: the same below the page's folder."""
    also = f" data-file='{file}'" if file else ""
    return f"<img alt='{alt}'{also} src='{_data('image/png', png)}'>"


def _attribute(text: str) -> str:
    return html.escape(text, quote=True)


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def wav_bytes(wave_N: np.ndarray, rate: int) -> bytes:
    """16-bit mono WAV."""
    import soundfile
    file = io.BytesIO()
    soundfile.write(file, np.clip(wave_N, -1, 1), rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def video_and_poster(benchmark, signals, identity) -> tuple[bytes, bytes] | None:
    """(mp4 with sound, its middle frame as JPEG), or None where the decoder draws no faces."""
    frames = benchmark.pictures(signals.streams, identity)
    if frames is None:
        return None
    fps = benchmark.picture_fps
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "clip.mp4"
        sound = signals.waveform if signals.has_audio else np.zeros(0, np.float32)
        write_media.write_mp4(path, frames, fps,
                              fit_sound(sound, len(frames) / fps, benchmark.sample_rate),
                              benchmark.sample_rate, crf=26)
        poster = io.BytesIO()
        Image.fromarray(frames[len(frames) // 2]).save(poster, "JPEG", quality=85)
        return path.read_bytes(), poster.getvalue()


def fit_sound(wave_N: np.ndarray, seconds: float, rate: int) -> np.ndarray:
    """Pads with silence, or cuts, to the pictures' duration."""
    size = round(seconds * rate)
    return np.pad(wave_N[:size], (0, max(0, size - len(wave_N))))
