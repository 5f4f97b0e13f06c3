"""Hallo2's published net.pth: five networks in one state dict, both directions.

Its first stage saves each of them in a file of its own, for which
avjax.systems.tavid.visual.published has a function a network.
"""

import numpy as np

from avjax.errors import UserError
from avjax.systems.tavid.visual import published as hallo2
from avjax.weights.names import scatter

NETWORKS = ("reference_unet", "denoising_unet", "face_locator", "imageproj", "audioproj")


def split(state: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """{network: its own state dict}. UserError: a network that is missing, or an entry of none of
    them."""
    parts: dict[str, dict[str, np.ndarray]] = {network: {} for network in NETWORKS}
    for name, value in state.items():
        network, _, rest = name.partition(".")
        if network not in parts:
            raise UserError("this is not Hallo2's net.pth", where=name,
                            expected=", ".join(NETWORKS), found=network)
        parts[network][rest] = value
    if missing := [network for network, part in parts.items() if not part]:
        raise UserError("this is not Hallo2's net.pth", expected=", ".join(NETWORKS),
                        found=f"nothing of {missing[0]}")
    return parts


def import_net(state: dict[str, np.ndarray], config) -> dict[str, dict]:
    """{network: parameters} of ReferenceNet(config), Denoiser(config), FaceLocator,
    ImageProjection, AudioProjection; the sizes of the last three are the weights'. UserError for an
    entry missing, unfit or left over."""
    part = split(state)
    locator, image, audio = part["face_locator"], part["imageproj"], part["audioproj"]
    halvings = sorted(int(name.split(".")[1]) for name in locator if name.startswith("blocks.")
                      and name.endswith("bias"))
    widths = (len(locator["conv_in.bias"]),
              *(len(locator[f"blocks.{i}.bias"]) for i in halvings[1::2]))
    return {"reference_unet": hallo2.import_reference(part["reference_unet"], config),
            "denoising_unet": hallo2.import_denoiser(part["denoising_unet"], config),
            "face_locator": hallo2.import_locator(locator, widths),
            "imageproj": hallo2.import_image_projection(
                image, len(image["proj.bias"]) // len(image["norm.bias"])),
            "audioproj": hallo2.import_audio_projection(
                audio, len(audio["proj3.bias"]) // len(audio["norm.bias"]))}


def export_net(params: dict[str, dict], config) -> dict[str, np.ndarray]:
    """The inverse of `import_net`, bit for bit but for the computed tables of positions."""
    locator = params["face_locator"]
    blocks = sum(name.startswith("blocks_") for name in locator)
    parts = {"reference_unet": hallo2.export_reference(params["reference_unet"], config),
             "denoising_unet": hallo2.export_denoiser(params["denoising_unet"], config),
             "face_locator": scatter(locator, hallo2.locator_names(range(blocks // 2 + 1)))}
    for network, names in (("imageproj", hallo2.image_projection_names),
                           ("audioproj", hallo2.audio_projection_names)):
        parts[network] = scatter(params[network],
                                 names(params[network]["project"]["kernel"].shape[1]))
    return {f"{network}.{name}": value for network, part in parts.items() for name,
            value in part.items()}
