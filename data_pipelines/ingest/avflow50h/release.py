"""AV-Flow's release as its owners hand it out -> what a workdir needs beside the network's weights.

Of FOLDER (a corpus with the weights in it, or the weights alone):

    av_flow_ckpt_*.pt, iter-*.pt or checkpoints/iter-*.pt     the network, as its trainer saves it
    head_vae/iter-*.pt                                        the head VAE
    headpose/headpose_normstats/head_{translation,qvec}_{mean,std}.npy    of the 50 h release
    participant/.../stats/{expression,headpose}_{min,max}.npy             of a network that listens
    bigvgan*/                                                 the vocoder; *finetuned* before others
    text_to_tokens.pth                                        text to tokens
    wav2vec2_fairseq_base_ls960_asr_ls960.pth                 sound to tokens

The last three are also looked for beside FOLDER, where the published code reads them. A head VAE of
four numbers is one of Audio2Photoreal's people, whose pose has no statistics. Recipes and codecs
are those of features that `avjax extract --tokens=given --head=vae --loudness=recorded
--resample=released` makes of the corpus, so that a training goes on with them.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from avjax.errors import UserError
from avjax.signal import mel
from data_pipelines.features.avflow import extract, head_pose, partner, tokens
from data_pipelines.ingest.audio2photoreal import prepare as photoreal
from data_pipelines.ingest.avflow50h import prepare as fifty_hours
from data_pipelines.ingest.common import head_vae
from data_pipelines.ingest.common.files import Files
from data_pipelines.store import columns
from data_pipelines.store.schema import FAMILY, SPEAKERS, Feature

MODE = "released"  # way of resampling
NETWORKS = ("av_flow_ckpt*.pt", "iter-*.pt", "checkpoints/iter-*.pt")
VOCODERS = ("bigvgan*finetuned*", "bigvgan*")
SOUND = ("wav2vec2_fairseq_base_ls960_asr_ls960*.pt*", "wav2vec2*base*960h*")
TEXT = ("text_to_tokens*.pt*",)
GENERATORS = ("bigvgan_generator*.pt", "g_*", "*.pt", "*.safetensors")
_UNREAD = ("images", "audio", "expression_codes")
_NUMBER = re.compile(r"(\d+)\D*$")


@dataclasses.dataclass(frozen=True)
class Parts:
    """The files of a release; None for what is not there. `vocoder`: its generator's file, whose
    config.json lies beside it."""

    folder: Path
    network: Path
    vocoder: Path | None
    sound: Path | None
    text: Path | None


@dataclasses.dataclass(frozen=True)
class _Corpus:
    """A corpus as extraction sees its clips, without any."""

    dir: Path
    features: Mapping[str, Feature]
    recipes: Mapping[str, dict]
    codecs: Mapping[str, dict[str, np.ndarray]]

    def codec(self, name: str) -> dict[str, np.ndarray]:
        return dict(self.codecs[name])


def parts(folder: str, network: str | None = None) -> Parts:
    """What lies in a folder. UserError: no folder, no network in it (or at `network`)."""
    here = Path(folder)
    if not here.is_dir():
        raise UserError("no such folder", where="--folder", expected="a release, as its owners lay "
                        "it out", found=folder)
    near = (here, here.resolve().parent)
    found = Path(network) if network else _newest(here, NETWORKS)
    if found is None:
        raise UserError("no network in the folder", where=f"--folder={folder}",
                        expected=" or ".join(NETWORKS), found=", ".join(sorted(
                            p.name for p in here.iterdir())[:8]) or "nothing",
                        hint="--file=FILE names it")
    folders = [p for place in near for p in _matching(place, VOCODERS) if p.is_dir()]
    generators = [g for p in folders if (g := _newest(p, GENERATORS))]
    return Parts(here, found, generators[0] if generators else None,
                 *(next((p for place in near for p in _matching(place, patterns)
                         if p.is_file() or any(p.glob("*.safetensors"))), None)
                   for patterns in (SOUND, TEXT)))


def described(folder: Path, *, participant: bool,
              latent: int) -> tuple[dict[str, dict], dict[str, dict[str, np.ndarray]]]:
    """Recipes and codecs of the features that a network of this folder was trained on.

    Args:
      participant: whether the network reads the participant's expression and head.
      latent: numbers that it makes of the head.

    Raises UserError: no head VAE or another one, statistics missing or of another kind.
    """
    files = Files(folder, (".npy", ".pt", ".bin", ".txt"), skip=_UNREAD)
    vae = head_vae.codec(files, "")
    if not vae:
        raise UserError("no head VAE in the folder", where=f"{folder}/head_vae",
                        expected="iter-*.pt", found="nothing", hint="fetch it: without it nobody "
                        "can read the network's head motion")
    shape = vae[head_pose.CODEC]["encoder_in/kernel"].shape[0]
    if shape == len(photoreal.POSE["mean"]):
        corpus, speaker = _photoreal(folder, vae), folder.resolve().name
    else:
        corpus, speaker = _fifty_hours(folder, files, vae, participant), fifty_hours.SPEAKER
    header = head_pose.make("vae", corpus)
    if header.width != latent:
        raise UserError("the head VAE is of another network", where=f"{folder}/head_vae",
                        expected=f"{latent} numbers a frame, as the network makes them",
                        found=str(header.width), hint="fetch both again")
    scaled = partner.Partner(corpus, "train", lambda name, make: make()) if participant else None
    recipes, codecs = extract.recipes_of(corpus, tokens.given(corpus, MODE), header, scaled, MODE,
                                         None)
    codecs[SPEAKERS] = {"names": np.array([speaker]),
                        "identity": columns.identity_of(speaker)[None]}
    return recipes | {FAMILY: {"kind": "avflow"}}, codecs


def mel_recipe() -> dict:
    """Of the release's features: sound as loud as it came."""
    return mel.RECIPE


def _fifty_hours(folder: Path, files: Files, vae, participant: bool) -> _Corpus:
    pose, ranges = fifty_hours.statistics(files, participant)
    return _Corpus(folder, fifty_hours.columns_of(True, participant),
                   fifty_hours.recipes(True, participant),
                   {"pose": pose} | ({partner.CODEC: ranges} if participant else {}) | vae
                   | fifty_hours.decoder(files))


def _photoreal(folder: Path, vae) -> _Corpus:
    return _Corpus(folder, photoreal.columns_of(True), photoreal.recipes(True),
                   {"pose": photoreal.POSE} | vae)


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """By the first pattern first, each by its name."""
    return list(dict.fromkeys(p for pattern in patterns for p in sorted(folder.glob(pattern))))


def _newest(folder: Path, patterns: Iterable[str]) -> Path | None:
    """Of the first pattern that any file fits, the one with the highest number in its name."""
    for pattern in patterns:
        if found := sorted(p for p in folder.glob(pattern) if p.is_file()):
            return max(found, key=lambda p: int((_NUMBER.search(p.stem) or (0, -1))[1]))
    return None
