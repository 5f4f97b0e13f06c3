"""Talker's audio latents: the published WhisperX-VAE where its weights are given, else the stand-in
of avjax/codecs/latents.py.

A dataset keeps what makes sound of latents (codecs/audio.npz). What makes latents of sound, with
Whisper 2.5 GB, is kept by reference: where it was (codecs/audio_files.npz) and the hash of its
arrays (the recipe); WORKDIR/audio_codec and WORKDIR/whisper are looked into, too.
Suffixes: B batch, N samples, T frames of 25 Hz, Z latent channels, D width of Whisper's features.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from avjax.codecs import latents, whisperx_vae
from avjax.codecs.published import whisperx_vae as published
from avjax.codecs.whisperx_vae import HOP, WhisperXVAEConfig
from avjax.encoders import whisper as whispers
from avjax.errors import UserError
from avjax.sharding import rows
from avjax.sharding.mesh import replicated
from avjax.signal import mel as mel_lib
from avjax.signal.resample import resampled
from avjax.weights import names
from avjax.weights.reader import read_state_dict
from data_pipelines.features.common import units
from data_pipelines.store.schema import arrays_hash

KIND = "whisperx-vae"
FILES = "audio_files"  # the codec that says where the weights were
PLACES = {"codec": "audio_codec", "whisper": "whisper"}  # file -> its folder in a workdir
WINDOW, QUANTUM = 200, 50  # frames made at once, at most; shorter ones are padded to a multiple
_AT_ONCE = 8  # windows of sound that are encoded together, on an accelerator


@functools.partial(jax.jit, static_argnums=1)
def _encode(params, config, wav_BTN, semantic_BTD, frames_B):
    B, T, _ = wav_BTN.shape
    with jax.default_matmul_precision("float32"):
        return whisperx_vae.encode(params, config, wav_BTN.reshape(B, -1),
                                   semantic_BTD.reshape(B, 2 * T, -1), frames_B)


@functools.partial(jax.jit, static_argnums=1)
def _decode(params, config, latent_TZ, frames):
    with jax.default_matmul_precision("float32"):
        return whisperx_vae.decode(params, config, latent_TZ[None], frames[None]).reshape(-1, HOP)


@dataclasses.dataclass(frozen=True)
class _Opened:
    """Everything of the files."""

    params: dict
    config: WhisperXVAEConfig
    whisper: whispers.Whisper
    recipe: dict
    mesh: Mesh


@functools.lru_cache(maxsize=1)  # a dataset's fitting and its writing ask for the same
def _open(codec: str, whisper: str, mesh: Mesh | None = None) -> _Opened:
    """mesh: windows are split over its data axes; None = all accelerators of this process.
    UserError: unreadable, of other networks, or of networks that do not belong together."""
    for flag, path in (("--audio_codec", codec), ("--whisper", whisper)):
        if path and not pathlib.Path(path).exists():
            raise UserError("no such weights", where=f"{flag}={path}",
                            expected="a file, or the folder of one", found="nothing")
    mesh = mesh or units.mesh() or rows.one_device()
    params, inner = published.split(read_state_dict(codec))
    config = published.config_of(params, codec)
    if bool(inner) == bool(whisper):
        raise UserError("the audio codec has a Whisper of its own" if inner else
                        "the audio codec lacks its Whisper", where=codec,
                        expected="no --whisper" if inner else "--whisper=FILE of Whisper large-v3",
                        found=whisper or "no semantic_model in the file")
    state, where = (inner, codec) if inner else (read_state_dict(whisper), whisper)
    network = whispers.Whisper.from_state_dict(state, where, _stated_heads(where), mesh)
    width = params["vae.in_proj.weight"].shape[1]
    if network.width != width:
        raise UserError("the audio codec and Whisper do not belong together", where=where,
                        expected=f"features {width} wide", found=f"{network.width}")
    params = jax.device_put(params, replicated(mesh))
    c = network.config
    heard = {"weights": arrays_hash(traverse_util.flatten_dict(
        jax.tree.map(np.asarray, network.params), sep="/")), "heads": c.num_heads,
        "positions": c.positions, "bands": c.bands}
    recipe = {"kind": KIND, "sample_rate": latents.SAMPLE_RATE, "hop": HOP, "rate": latents.RATE,
              "dim": latents.DIM, "network": {"down": list(config.down), "up": list(config.up)},
              "weights": arrays_hash({n: np.asarray(x) for n, x in params.items()}),
              "whisper": heard, "level": None}
    return _Opened(params, config, network, recipe, mesh)


def _stated_heads(path: str) -> int | None:
    """Of Whisper's attention, in a config.json beside the weights: transformers', or the sizes in
    OpenAI's words."""
    place = pathlib.Path(path)
    beside = (place if place.is_dir() else place.parent) / "config.json"
    if not beside.is_file():
        return None
    try:
        config = json.loads(beside.read_text())
    except ValueError as error:
        raise UserError("unreadable config of a model", where=str(beside), found=str(error),
                        hint="fetch it again") from error
    config = config if isinstance(config, dict) else {}
    inner = config.get("whisper", config)
    heads = inner.get("encoder_attention_heads", inner.get("n_audio_head")) if isinstance(
        inner, dict) else None
    return heads if isinstance(heads, int) and heads > 0 else None


class WhisperXVAE:
    """The published codec; see avjax.codecs.latents.AudioCodec. Long sound is coded in windows that
    reach as far as what they give depends on, so memory does not grow with length."""

    def __init__(self, recipe: dict, decoder: dict, files: Mapping[str, str],
                 workdir: pathlib.Path | None = None, mesh: Mesh | None = None):
        self.recipe, self._files, self._workdir = recipe, dict(files), workdir
        self._mesh = mesh
        self.config = WhisperXVAEConfig(**{k: tuple(v) for k, v in recipe["network"].items()})
        self._decoder = jax.device_put(decoder, jax.local_devices()[0])

    @classmethod
    def from_checkpoint(cls, codec: str, whisper: str | None = None,
                        mesh: Mesh | None = None) -> "WhisperXVAE":
        """Of the published file or its folder; `whisper`: where that lacks its Whisper. mesh: sound
        is encoded on its devices; None = all accelerators of this process, or one CPU."""
        files = {"codec": str(codec), "whisper": str(whisper or "")}
        opened = _open(**files, mesh=mesh)
        return cls(opened.recipe, {n: x for n, x in opened.params.items()
                                   if n.startswith(published.DECODER)}, files, mesh=mesh)

    def arrays(self) -> dict[str, np.ndarray]:
        """What makes sound."""
        return {name: np.asarray(x) for name, x in self._decoder.items()}

    def files(self) -> dict[str, np.ndarray]:
        """The codec FILES."""
        return {name: np.array(str(pathlib.Path(path).expanduser().resolve()) if path else "")
                for name, path in self._files.items()}

    @property
    def ahead(self) -> int:
        """Numbers that `many` should be given together: some batches of windows, so that those of
        like length find each other."""
        return 4 * rows.shards(self._opened.mesh) * rows.at_once(_AT_ONCE) * WINDOW * HOP

    def encode(self, audio_N: np.ndarray) -> np.ndarray:
        """(N >= 1,) at 24 kHz -> (ceil(N / 960), 32) float32: the means. UserError: nothing to
        encode, numbers that are not finite; weights that are gone or others than the recipe's."""
        return self.many([self.prepared(audio_N)])[0]

    def prepared(self, audio_N: np.ndarray) -> np.ndarray:
        """(N >= 1,) samples -> (T, 960), silence behind them. UserError: no sound."""
        audio_N = np.asarray(audio_N, np.float32)
        if audio_N.ndim != 1 or not len(audio_N) or not np.isfinite(audio_N).all():
            raise UserError("unusable sound", where="the audio codec",
                            expected="a vector of finite samples", found=f"shape {audio_N.shape}"
                            + ", NaN or infinity" * (not np.isfinite(audio_N).all()))
        return np.pad(np.clip(audio_N, -1, 1), (0, -len(audio_N) % HOP)).reshape(-1, HOP)

    def many(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See AudioCodec: windows of like length go together."""
        own = self._opened
        heard = own.whisper.many([resampled(wav_TN.ravel(), latents.SAMPLE_RATE,
                                            whispers.SAMPLE_RATE) for wav_TN in prepared])
        cuts = [_pieces(len(wav_TN), self.config.encoder_halo) for wav_TN in prepared]
        windows = []
        for wav_TN, heard_SD, cut in zip(prepared, heard, cuts, strict=True):
            semantic_TD = heard_SD[:2 * len(wav_TN)].reshape(len(wav_TN), -1)
            windows += [(wav_TN[window], semantic_TD[window]) for window, _ in cut]
        made = iter(rows.through(functools.partial(_encode, own.params, self.config), windows,
                                 own.mesh, padded=_padded, most=lambda _: rows.at_once(_AT_ONCE)))
        return [np.concatenate([next(made)[wanted] for _, wanted in cut]) for cut in cuts]

    def chunks(self, latent_TZ: np.ndarray) -> Iterator[np.ndarray]:
        """(T, 32) -> (T * 960,) samples at 24 kHz, in parts."""
        latent_TZ = self._checked(latent_TZ)
        for window, wanted in _pieces(len(latent_TZ), self.config.decoder_halo):
            given_TZ = latent_TZ[window]
            padded_TZ = rows.stacked([given_TZ], 1, _padded(len(given_TZ)))[0]
            made_TN = _decode(self._decoder, self.config, padded_TZ, np.int32(len(given_TZ)))
            yield np.asarray(made_TN)[wanted].ravel()

    def waveform(self, latent_TZ: np.ndarray) -> np.ndarray:
        """(T >= 1, 32) -> (T * 960,) float32 at 24 kHz, in [-1, 1]."""
        return np.concatenate(list(self.chunks(latent_TZ)))

    def mel(self, latent_TA: np.ndarray) -> np.ndarray:
        """(T, 32) -> (4 T, 80) normalised log-mel of the sound, to be scored by."""
        log_mel = mel_lib.log_mel(self.waveform(latent_TA), latents.MEL)
        return mel_lib.normalise(log_mel, latents.MEL)

    def part(self, latent_TZ: np.ndarray, first: int, count: int, length: int) -> np.ndarray:
        """(count * 960,) samples of frames from `first` on; compiled for every `length` that the
        latents are padded to."""
        padded_TZ = np.pad(self._checked(latent_TZ), ((0, length - len(latent_TZ)), (0, 0)))
        made_TN = _decode(self._decoder, self.config, padded_TZ, np.int32(len(latent_TZ)))
        return np.asarray(made_TN)[first:first + count].ravel()

    @property
    def found(self) -> dict[str, str]:
        """{"codec", "whisper": where the weights that make latents are now}, read and compared;
        "" for no Whisper of its own. UserError: they are gone, or others."""
        self._opened  # noqa: B018
        return self._places()

    def _places(self) -> dict[str, str]:
        files = {}
        for name, path in self._files.items():
            places = [pathlib.Path(path)] if path else []
            places += [self._workdir / PLACES[name]] if path and self._workdir else []
            files[name] = next((str(p) for p in places if p.exists()), "")
            if path and not files[name]:
                wanted = self.recipe if name == "codec" else self.recipe["whisper"]
                raise UserError("what makes latents of sound is not kept with the features",
                                where=path, found="nothing",
                                expected=f"weights {wanted['weights']}",
                                hint=f"put it back, or into WORKDIR/{PLACES[name]}")
        return files

    @functools.cached_property
    def _opened(self) -> _Opened:
        """What makes latents, found again."""
        files = self._places()
        opened = _open(**files, mesh=self._mesh)
        found = {k: v for k, v in self.recipe.items() if k in opened.recipe}
        if found != opened.recipe:
            raise UserError("another audio codec than the model's", where=files["codec"],
                            expected=f"weights {self.recipe['weights']} with Whisper "
                                     f"{self.recipe['whisper']['weights']}",
                            found=f"{opened.recipe['weights']} with Whisper "
                                  f"{opened.recipe['whisper']['weights']}")
        return opened

    def _checked(self, latent_TZ: np.ndarray) -> np.ndarray:
        latent_TZ = np.asarray(latent_TZ, np.float32)
        if latent_TZ.ndim != 2 or not len(latent_TZ) or latent_TZ.shape[1] != latents.DIM:
            raise UserError("wrong latent width", where="audio",
                            expected=f"(frames >= 1, {latents.DIM})", found=str(latent_TZ.shape),
                            hint="use the codec that the model was trained with")
        if not np.isfinite(latent_TZ).all():
            raise UserError("latents are not finite", where="audio", expected="finite numbers",
                            found="NaN or infinity",
                            hint="the model has diverged: use an earlier checkpoint")
        return latent_TZ


class Streamed:
    """Sound of latents that have not ended: that of `WhisperXVAE.waveform`, `block` frames at a
    time, each as soon as the frames behind it that it depends on are there."""

    def __init__(self, codec: WhisperXVAE, block: int):
        self._codec, self.block, self._halo = codec, block, codec.config.decoder_halo
        self._kept_TZ = np.zeros((0, latents.DIM), np.float32)
        self._before = 0  # of what is kept, frames whose sound was given

    @property
    def look_ahead(self) -> float:
        """Frames, at most."""
        return self.block - 1 + self._halo + 0.5

    def feed(self, latent_TZ: np.ndarray) -> np.ndarray:
        """(n, 32) -> samples that are final."""
        self._kept_TZ = np.concatenate([self._kept_TZ, latent_TZ])
        return self._while(lambda new: new >= self.block + self._halo)

    def finish(self) -> np.ndarray:
        """The rest."""
        return self._while(lambda new: new > 0)

    def _while(self, more: Callable[[int], bool]) -> np.ndarray:
        parts = [np.zeros(0, np.float32)]
        while more(new := len(self._kept_TZ) - self._before):
            count, length = min(self.block, new), self.block + 2 * self._halo
            upto_TZ = self._kept_TZ[:self._before + self.block + self._halo]
            parts.append(self._codec.part(upto_TZ, self._before, count, length))
            drop = max(self._before + count - self._halo, 0)
            self._kept_TZ, self._before = self._kept_TZ[drop:], self._before + count - drop
        return np.concatenate(parts)


def _pieces(frames: int, halo: int) -> list[tuple[slice, slice]]:
    """Windows of so many frames, and what of each is wanted: one after the other, the whole."""
    count = frames if frames <= WINDOW else WINDOW - 2 * halo
    starts = [(first, max(first - halo, 0)) for first in range(0, frames, count)]
    return [(slice(start, min(start + WINDOW, frames)),
             slice(first - start, min(first + count, frames) - start)) for first, start in starts]


def _padded(frames: int) -> int:
    return -(-frames // QUANTUM) * QUANTUM


def chosen(audio_codec: str | None, whisper: str | None, vocoder: str | None) -> WhisperXVAE | None:
    """Of extraction's options; None where the stand-in is to be fitted. UserError: not such
    weights, Whisper alone, or a vocoder beside them."""
    if not audio_codec and whisper:
        raise UserError("a Whisper without the audio codec that it belongs to", where="--whisper",
                        expected="--audio_codec=FILE", found="none")
    if audio_codec and vocoder:
        raise UserError("two things that make the sound", where="--audio_codec, --vocoder",
                        expected="one of them: the audio codec makes its own", found="both")
    return WhisperXVAE.from_checkpoint(audio_codec, whisper) if audio_codec else None


def from_recipe(recipe: dict, codecs: Mapping[str, Mapping[str, np.ndarray]],
                workdir: pathlib.Path | None = None) -> latents.AudioCodec:
    """Of a dataset or workdir. UserError: an unknown kind, arrays that do not fit."""
    arrays = dict(codecs.get("audio", {}))
    if recipe.get("kind") != KIND:
        return latents.from_recipe(recipe, arrays)
    config = WhisperXVAEConfig(**{k: tuple(v) for k, v in recipe["network"].items()})
    names.check_arrays({n: x.shape for n, x in arrays.items()},
                       published.expected(arrays, config, decoder_only=True),
                       "the audio codec's arrays do not fit its recipe",
                       where="codecs/audio.npz", hint="copy the folder again")
    files = {name: str(path) for name, path in codecs.get(FILES, {}).items()}
    return WhisperXVAE(recipe, arrays, files, workdir)
