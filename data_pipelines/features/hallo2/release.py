"""Hallo2's files as its owners lay them out -> what a workdir needs beside the networks: the
picture VAE, the network that hears the sound, and what says how portraits are framed.

    hallo2/net.pth, or what a training begins with: avjax/systems/tavid/visual/published.py
    sd-vae-ft-mse/diffusion_pytorch_model.safetensors
    wav2vec/wav2vec2-base-960h/model.safetensors, with its config.json

Face embeddings come from a recogniser of the user's, <portrait>.face.npy beside each portrait.
"""

import dataclasses
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from avjax.codecs import pictures
from avjax.codecs.autoencoder_kl import factor
from avjax.encoders import portrait
from avjax.encoders.driving.layers import SoundLayers
from avjax.errors import UserError
from avjax.signal import mel, rates
from avjax.systems.tavid.visual import published
from avjax.weights.reader import read_state_dict
from data_pipelines.features.common.units import with_hash
from data_pipelines.features.tavid import sounding
from data_pipelines.store.schema import FAMILY

VAES = tuple(f"{folder}{name}" for folder in ("sd-vae-ft-mse/", "vae/")
             for name in published.STABLE_DIFFUSION)
HEARING = tuple(f"{folder}wav2vec2-base-960h/{name}" for folder in ("wav2vec/", "")
                for name in ("model.safetensors", "pytorch_model.bin"))
# of the published inference: the schedule that it samples with, though it trained with the other
INFERENCE = {"sample_betas": "linear", "sample_motion_drop": 0.25}


@dataclasses.dataclass(frozen=True)
class Parts:
    """The files of a release; None for what is not there. `network`: a file, or the folder of
    several."""

    network: Path
    vae: Path | None
    hearing: Path | None


def parts(folder: str, network: str | None = None) -> Parts:
    """What lies in a folder. UserError: no folder, or no network in it (or at `network`)."""
    here = Path(folder)
    if not here.is_dir():
        raise UserError("no such folder", where="--folder", expected="a release, as its owners lay "
                        "it out", found=folder)
    if network is None:
        published.files(here)

    def first(names):
        return next((here / name for name in names if (here / name).is_file()), None)

    return Parts(Path(network) if network else here, first(VAES), first(HEARING))


def described(found: Parts, settings: ConfigDict) -> tuple[dict[str, dict], dict[str, dict]]:
    """(recipes, codecs) as a feature dataset of these networks would have them. settings: the
    config's system. UserError: a VAE or an encoder of other sizes than the network's."""
    size = settings.latent_size[0]
    recipes: dict[str, dict] = {FAMILY: {"kind": "tavid"}, "mel": dict(mel.SPEECH),
                                "faces": with_hash(portrait.given(settings.face_width))}
    codecs: dict[str, dict[str, np.ndarray]] = {}
    if found.vae:
        vae = pictures.from_state_dict(read_state_dict(found.vae))
        if vae.config["latent_dim"] != settings.latent_dim:
            raise UserError("the VAE is of another network", where=str(found.vae),
                            expected=f"{settings.latent_dim} channels of latents",
                            found=str(vae.config["latent_dim"]))
        framed = {"kind": "recorded", "size": size * factor(vae.config), "rate": rates.FRAMES}
        made = with_hash(vae)
        recipes |= {"portraits": framed, "reference": made, "latents": made | {"pictures": framed}}
        recipes |= {name: sounding.SHAPES | {"portraits": framed}
                    for name in ("regions", "face_mask")}
        codecs["vae"] = vae.arrays()
    if found.hearing and settings.driver == "audio":
        sound = SoundLayers.from_checkpoint(found.hearing)
        wanted = settings.audio.layers, settings.audio.layers * settings.audio.width
        if (sound.layers, sound.width) != wanted:
            raise UserError("the network hears another encoder's frames", where=str(found.hearing),
                            expected=f"{settings.audio.layers} layers of {settings.audio.width}",
                            found=f"{sound.layers} layers of {sound.width // sound.layers}")
        recipes["audio"] = sound.recipe
    return recipes, codecs
