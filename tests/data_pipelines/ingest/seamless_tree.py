"""A miniature of Seamless Interaction in its owners' layouts: drawn squares with keypoints, bursts
of noise for voices, transcripts and voice activity that fit them. Every side is described by the
members that its files have, so that tests can spoil any."""

import csv
import functools
import io
import json
import pathlib
import tarfile
import wave
from fractions import Fraction

import av
import cv2
import numpy as np

SIZE = (96, 160)
SECONDS = 6.0
RATE = 48000
SPEECH = {0: ((0.5, 1.9), (4.2, 5.5)), 1: ((2.3, 3.8),)}  # seconds, of either side
_WORDS = "we went to the lake and swam".split()


def side(who: int, *, seconds: float = SECONDS, fps: Fraction = Fraction(30), rows: int = 0,
         spoken=None, seed: int = 0) -> dict:
    """{"wav", "mp4": bytes, "npz": {name: array}, "json": object} of one side; `rows`: more or
    fewer rows of arrays than the video has frames."""
    spoken = SPEECH[who] if spoken is None else spoken
    frames = round(seconds * fps)
    return {"wav": wav(sound(spoken, seconds, seed + who)), "mp4": video(frames, fps, who),
            "npz": arrays(frames + rows, seconds, who), "json": said(spoken)}


def sound(spoken, seconds: float, seed: int) -> np.ndarray:
    """Noise that swells and fades as syllables do, 48 kHz float."""
    rng = np.random.default_rng(seed)
    x = 1e-4 * rng.standard_normal(round(seconds * RATE))
    for start, end in spoken:
        a, b = round(start * RATE), round(end * RATE)
        time = np.arange(b - a) / RATE
        tone = np.sign(np.sin(2 * np.pi * (120 + 60 * (seed % 2)) * time))
        x[a:b] += 0.2 * np.abs(np.sin(2 * np.pi * 2 * time)) * (
            tone + 0.3 * rng.standard_normal(b - a)) / 1.5
    return x


def wav(x: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((np.clip(x, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def centre(frame: int, who: int) -> tuple[float, float]:
    """Between the eyes, pixels."""
    return 48 + 6 * np.sin(frame / 15 + who), 60 + 4 * np.cos(frame / 20)


@functools.cache
def video(frames: int, fps: Fraction, who: int) -> bytes:
    """A face-sized disk on a textured ground."""
    file = io.BytesIO()
    ground = np.random.default_rng(who).integers(0, 90, (20, 12, 3), np.uint8)
    ground = cv2.resize(ground, SIZE, interpolation=cv2.INTER_CUBIC)
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.time_base = 1 / fps
        for k in range(frames):
            image, (x, y) = ground.copy(), centre(k, who)
            cv2.circle(image, (round(x), round(y) + 6), 24, (230, 180, 150), -1)
            for eye in (-10, 10):
                cv2.circle(image, (round(x) + eye, round(y)), 4, (20, 20, 220), -1)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = k, 1 / fps
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def face_points() -> np.ndarray:
    """(68, 2) of a face that looks ahead, origin between the eyes, whose middles are 20 apart."""
    angle = np.linspace(np.pi, 0, 17)
    jaw = np.stack([23 * np.cos(angle), 2 + 24 * np.sin(angle)], 1)
    brows = np.array([(x, -7) for x in np.r_[np.linspace(-16, -4, 5), np.linspace(4, 16, 5)]])
    nose = np.array([(0, y) for y in (0, 4, 8, 11)] + [(x, 13) for x in (-4, -2, 0, 2, 4)])
    eye = np.array([(-4, 0), (-1.5, -1.5), (1.5, -1.5), (4, 0), (1.5, 1.5), (-1.5, 1.5)])
    lips = np.array([(9 * np.cos(a), 20 - 3 * np.sin(a)) for a in np.linspace(np.pi, -np.pi, 21)])
    return np.concatenate([jaw, brows, nose, eye - (10, 0), eye + (10, 0), lips[:20]])


def arrays(rows: int, seconds: float, who: int) -> dict[str, np.ndarray]:
    """The arrays of an npz."""
    points = np.zeros((rows, 133, 3), np.float32)
    at = np.array([centre(k, who) for k in range(rows)]).reshape(-1, 1, 2)
    points[:, 23:91, :2], points[..., 2] = at + face_points(), 0.9
    boxes = np.tile(np.array([2, 2, 94, 158], np.float32), (rows, 1))
    valid = np.ones((rows, 1), np.float32)
    rng = np.random.default_rng(who)
    return {"boxes_and_keypoints:box": boxes, "boxes_and_keypoints:is_valid_box": valid,
            "boxes_and_keypoints:keypoints": points,
            "movement:expression": rng.standard_normal((rows, 128)).astype(np.float32),
            "movement:is_valid": valid.copy(),
            "smplh:is_valid": np.ones(round(seconds * 30), bool)}


def said(spoken) -> dict:
    transcript = []
    for start, end in spoken:
        edges = np.linspace(start, end, len(_WORDS) + 1).round(3).tolist()
        words = [{"word": w, "start": a, "end": b, "score": 0.9}
                 for w, a, b in zip(_WORDS, edges[:-1], edges[1:], strict=True)]
        transcript.append({"words": words, "start": start, "end": end,
                           "transcript": " ".join(_WORDS)})
    return {"id": "", "metadata:transcript": transcript,
            "metadata:vad": [{"start": a, "end": b} for a, b in spoken]}


def files(one: dict) -> dict[str, bytes]:
    """{suffix: content}."""
    out = {kind: one[kind] for kind in ("wav", "mp4") if kind in one}
    if "npz" in one:
        file = io.BytesIO()
        np.savez_compressed(file, **one["npz"])
        out["npz"] = file.getvalue()
    if "json" in one:
        out["json"] = json.dumps(one["json"]).encode()
    return out


def write_tar(path: pathlib.Path, sides: dict[str, dict]) -> None:
    """One archive of {id: side}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for id, one in sides.items():
            for suffix, content in files(one).items():
                info = tarfile.TarInfo(f"{id}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def write_bucket(root: pathlib.Path, label: str, split: str, sides: dict[str, dict]) -> None:
    """The same as folders of files."""
    def put(folder: str, name: str, content: bytes) -> None:
        path = root / label / split / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    for id, one in sides.items():
        put("audio", f"{id}.wav", one["wav"])
        put("video", f"{id}.mp4", one["mp4"])
        for name, x in one["npz"].items():
            file = io.BytesIO()
            np.save(file, x)
            put(name.replace(":", "/"), f"{id}.npy", file.getvalue())
        for name, content in one["json"].items():
            group, _, kind = name.partition(":")
            if group == "metadata":
                lines = "".join(json.dumps(line) + "\n" for line in content)
                put(f"metadata/{kind}", f"{id}.jsonl", lines.encode())
            elif group == "annotations":
                put(f"annotations/{kind}", f"{id}.json", json.dumps(content).encode())


def write_filelist(root: pathlib.Path, rows: list[tuple]) -> None:
    """(id, label, split, batch, archive) rows."""
    with open(root / "filelist.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["file_id", "label", "split", "batch_idx", "archive_idx"])
        out.writerows(rows)
