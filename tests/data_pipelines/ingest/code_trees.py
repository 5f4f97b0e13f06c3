"""Miniatures of corpora that bring face codes, in their owners' layouts."""

import pathlib

import jax
import numpy as np
import soundfile
from scipy.spatial.transform import Rotation

from avjax.systems import api, head_vae
from avjax.systems.head_vae import config as head_vae_config
from avjax.systems.head_vae import published
from avjax.weights.torch_writer import write_torch_zip

FRAMES = 45  # 1.5 s
TOKENS = "wav2vec2_fairseq_base_ls960_asr_ls960_vad100"
SMIRK = "participant/camera01/smirk_outputs"
STATISTICS = {f"{kind}_{part}": np.full(size, 0.5) for kind, size in (("code", 256), ("pose", 104))
              for part in ("mean", "std")}
DAYS = ("20240401--0900", "20240402--1000", "20240408--1100", "20240509--1052")


def save(path: pathlib.Path, array, **kw) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array, **kw)


def wav(path: pathlib.Path, frames: int = FRAMES, rate: int = 48000, extra: int = 0,
        channels: int = 2) -> np.ndarray:
    """Two voices of tones; returns (N, channels)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(frames * rate / 30) + extra) / rate
    x_NC = np.stack([0.3 * np.sin(2 * np.pi * (200 + 130 * c) * time) * (1 + np.sin(9 * time))
                     for c in range(channels)], 1)
    soundfile.write(path, x_NC, rate, "PCM_16")
    return x_NC


def scene(folder: pathlib.Path, number: int, frames: int = FRAMES, missing=(), tokens: bool = True):
    """A scene of Audio2Photoreal: face code i of frame t is t + 1000 * i."""
    name, rng = f"scene{number:02d}", np.random.default_rng(number)
    wav(folder / f"{name}_audio.wav", frames)
    codes = np.arange(frames)[:, None] + 1000.0 * np.arange(256)
    body = rng.normal(size=(frames, 104))
    body[:, 3] = np.linspace(-np.pi, 3 * np.pi, frames)
    save(folder / f"{name}_face_expression.npy", codes.astype(np.float32))
    save(folder / f"{name}_body_pose.npy", body)
    save(folder / f"{name}_missing_face_frames.npy", np.array(missing))
    if tokens:
        save(folder / TOKENS / f"{name}.npy", logits(frames, rng))
    return folder / name


def logits(frames: int, rng) -> np.ndarray:
    return rng.normal(size=(2, int(frames / 30 * 50 - 0.25), 29)).astype(np.float32)


def statistics(path: pathlib.Path, **more) -> None:
    """data_stats.pth: numpy arrays, as torch.save pickles them."""
    write_torch_zip(str(path), STATISTICS | {"audio_std_flat": np.full(1, 0.0137, np.float32)}
                    | more)


def vae(path: pathlib.Path, pose_dim: int):
    """A head VAE as its authors' code saves it; returns (system, parameters)."""
    config = head_vae_config.published()
    config.pose_dim = pose_dim
    system = head_vae.System(config)
    rng = np.random.default_rng(pose_dim)
    params = jax.tree.map(lambda x: 0.1 * rng.normal(size=x.shape).astype(np.float32),
                          api.abstract_params(system))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_torch_zip(str(path), {"model_state_dict": published.export_head_vae(params, config)})
    return system, params


def segment(root: pathlib.Path, name: str, frames: int = FRAMES, participant: int = FRAMES):
    """A segment of the 50 h release."""
    rng = np.random.default_rng(len(name) + frames)
    wav(root / f"audio/{name}.wav", frames)
    save(root / f"expression_codes/{name}.npy", rng.normal(size=(frames, 256)).astype(np.float32))
    turns = Rotation.from_rotvec(np.cumsum(rng.normal(size=(frames, 3)), 0)).as_matrix()
    place = 100 * rng.normal(size=(frames, 3, 1))
    save(root / f"headpose/{name}--headpose.npy",
         np.concatenate([turns, place], 2).astype(np.float32))
    save(root / TOKENS / f"{name}.npy", logits(frames, rng))
    for kind, width in (("expression", 55), ("headpose", 3)):
        save(root / f"{SMIRK}/{name}--{kind}.npy",
             rng.normal(size=(participant, width)).astype(np.float32))


def fifty_hours(root: pathlib.Path):
    """The 50 h release; returns its head VAE."""
    for day in DAYS:
        segment(root, day)
    for kind, width in (("expression", 55), ("headpose", 3)):
        for end, value in (("min", -2.0), ("max", 3.0)):
            save(root / f"{SMIRK}/stats/{kind}_{end}.npy", np.full(width, value, np.float32))
    for kind, width in (("qvec", 4), ("translation", 3)):
        for end, value in (("mean", 0.1), ("std", 2.0)):
            save(root / f"headpose/headpose_normstats/head_{kind}_{end}.npy",
                 np.full(width, value * (1 if width == 4 else 30), np.float32))
    (root / "decoder").mkdir()
    (root / "decoder/vert_mean.bin").write_bytes(np.arange(12, dtype=np.float32).tobytes())
    (root / "decoder/vert_var.txt").write_text("1.5\n")
    (root / "decoder/dec_params.pt").write_bytes(b"weights")
    return vae(root / "head_vae/iter-0500000.pt", 7)


def listening(folder: pathlib.Path, listener: int, count: int = 3, width: int = 184) -> dict:
    """The four arrays of one who listens and the other who speaks, of a split."""
    rng = np.random.default_rng(listener + count)
    arrays = {f"p{listener}_list_faces": rng.normal(size=(count, 64, width)),
              f"p{1 - listener}_speak_faces": rng.normal(size=(count, 64, width)),
              f"p{1 - listener}_speak_audio": rng.normal(size=(count, 256, 128)),
              f"p{1 - listener}_speak_files": np.array(
                  [[["video1", str(1 - listener), str(64 * i + t)] for t in range(64)]
                   for i in range(count)])}
    for name, array in arrays.items():
        save(folder / f"{name}_clean_deca.npy",
             array.astype(np.float32) if array.dtype.kind == "f" else array)
    return arrays
