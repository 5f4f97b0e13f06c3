"""Hallo2's published net.pth: five networks in one state dict <-> the visual System's parameters,
both directions; and what its training begins with, Stable Diffusion 1.5's U-Net and AnimateDiff's
temporal modules, as the same kind of state dict with less in it.

Its first stage saves each network in a file of its own, whose names lack the network's.
"""

from collections.abc import Mapping

import numpy as np

from avjax.errors import UserError
from avjax.systems.tavid.visual.names import hallo2
from avjax.weights.names import scatter

# of the file: of the System's parameters
NETWORKS = {"reference_unet": "reference", "denoising_unet": "denoiser",
            "face_locator": "face_locator", "imageproj": "image_projection",
            "audioproj": "audio_projection"}
State = Mapping[str, np.ndarray]


def split(state: State) -> dict[str, dict[str, np.ndarray]]:
    """{network: its own state dict} of those that are there. UserError: an entry of none of
    them, or no reference net or denoiser."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, value in state.items():
        network, _, rest = name.partition(".")
        if network not in NETWORKS:
            raise UserError("this is not Hallo2's net.pth", where=name,
                            expected=", ".join(NETWORKS), found=network)
        parts.setdefault(network, {})[rest] = value
    for network in ("reference_unet", "denoising_unet"):
        if network not in parts:
            raise UserError("this is not Hallo2's net.pth", expected=", ".join(NETWORKS),
                            found=f"nothing of {network}")
    return parts


def from_stable_diffusion(unet: State, motion_modules: State | None = None) -> dict:
    """Both networks begin with Stable Diffusion's U-Net, whose attention to a text becomes that to
    the face; AnimateDiff's modules join the denoiser. UserError: other files."""
    if "conv_in.weight" not in unet or not any(".attn2.to_k." in name for name in unet):
        raise UserError("not a U-Net of Stable Diffusion", expected="conv_in.weight and "
                        "down_blocks.0.attentions.0...attn2 (diffusers' names)",
                        found=", ".join(sorted(unet)[:3]) or "nothing",
                        hint="take unet/diffusion_pytorch_model.safetensors")
    modules = motion_modules or {}
    if other := [name for name in modules if hallo2.TEMPORAL not in f".{name}"]:
        raise UserError("not AnimateDiff's motion modules", where=other[0],
                        expected="names with motion_modules", found=f"{len(other)} others",
                        hint="take mm_sd_v15_v2.ckpt")
    return {f"reference_unet.{name}": value for name, value in unet.items()} | {
        f"denoising_unet.{name}": value for name, value in {**unet, **modules}.items()}


def import_net(state: State, config) -> dict[str, dict]:
    """Published names -> parameters by the System's names, of the networks that the file and the
    config both have; see `hallo2.import_denoiser` for what a denoiser may lack. `config`: the
    System's, or `config.unet` and the sizes that it names. UserError for an entry missing, unfit
    or left over."""
    part = split(state)
    out = {"reference": hallo2.import_reference(part["reference_unet"], config.unet),
           "denoiser": hallo2.import_denoiser(part["denoising_unet"], config.unet)}
    if "imageproj" in part:
        out["image_projection"] = hallo2.import_image_projection(part["imageproj"],
                                                                 config.face_tokens)
    if "audioproj" in part and config.driver == "audio":
        out["audio_projection"] = hallo2.import_audio_projection(part["audioproj"],
                                                                 config.audio.tokens)
    if "face_locator" in part and config.locator:
        out["face_locator"] = hallo2.import_locator(part["face_locator"], config.locator)
    return out


def unread(state: State, config) -> tuple[str, ...]:
    """Networks and regions of a file that the config has no place for."""
    part = split(state)
    networks = [name for name, place in (("audioproj", config.driver == "audio"),
                                         ("face_locator", bool(config.locator)))
                if name in part and not place]
    regions = [f"region {name}" for name in hallo2.regions_of(part["denoising_unet"])
               if name not in config.unet.regions]
    return (*networks, *regions)


def export_net(params: dict[str, dict], config) -> dict[str, np.ndarray]:
    """The inverse of `import_net`, bit for bit but for the computed tables of positions; of the
    networks that Hallo2 has."""
    parts = {"reference_unet": hallo2.export_reference(params["reference"], config.unet),
             "denoising_unet": hallo2.export_denoiser(params["denoiser"], config.unet)}
    if "face_locator" in params:
        parts["face_locator"] = scatter(params["face_locator"],
                                        hallo2.locator_names(config.locator))
    parts["imageproj"] = scatter(params["image_projection"],
                                 hallo2.image_projection_names(config.face_tokens))
    if "audio_projection" in params:
        parts["audioproj"] = scatter(params["audio_projection"],
                                     hallo2.audio_projection_names(config.audio.tokens))
    return {f"{network}.{name}": value for network, part in parts.items() for name,
            value in part.items()}
