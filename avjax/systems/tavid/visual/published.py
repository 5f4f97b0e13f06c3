"""How the visual networks are published: Hallo2's net.pth; and, as what a training begins with,
Stable Diffusion 1.5's U-Net, alone or in a folder with AnimateDiff's temporal modules.

    file or folder                                      brings
    net.pth (also in hallo2/)                           all of Hallo2
    reference_unet.pth, denoising_unet.pth, ...         the same, a network a file (stage 1)
    diffusion_pytorch_model.* (also in .../unet/)       reference net and spatial layers
    the same, and mm_sd*.ckpt (also in motion_module/)  temporal layers too

The Motion Mapper is ours: it stays fresh, as does what a file lacks.
"""

import os
from pathlib import Path

from avjax.errors import UserError
from avjax.systems.tavid.visual.names import net
from avjax.systems.tavid.visual.names.sizes import sizes
from avjax.weights.published import Published, State
from avjax.weights.reader import read_state_dict

NET = ("net.pth", "hallo2/net.pth")
STABLE_DIFFUSION = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
UNET_FOLDERS = ("", "unet", "stable-diffusion-v1-5/unet")
MODULE_FOLDERS = ("", "motion_module")
MODULES = "mm_sd*.ckpt"


def files(folder: str | os.PathLike) -> dict[str, Path]:
    """The weights in a folder, whole networks first: {"net": path}, {network: path} of each, or
    {"unet": path, "modules": path or absent}. UserError: none of them, or several modules."""
    here = Path(folder)
    for name in NET:
        if (here / name).is_file():
            return {"net": here / name}
    apart = {name: here / f"{name}.pth" for name in net.NETWORKS
             if (here / f"{name}.pth").is_file()}
    if apart:
        return apart
    for inside in UNET_FOLDERS:
        for name in STABLE_DIFFUSION:
            if (path := here / inside / name).is_file():
                return {"unet": path, **_modules(here)}
    names = sorted(path.name for path in here.iterdir())
    raise UserError("no visual network in the folder", where=str(folder),
                    expected=f"{', '.join(NET)}, denoising_unet.pth and others, or "
                    f"unet/{STABLE_DIFFUSION[0]}", found=", ".join(names[:8]) or "nothing")


def _modules(here: Path) -> dict[str, Path]:
    found = sorted(path for inside in MODULE_FOLDERS for path in (here / inside).glob(MODULES))
    if len(found) > 1:
        raise UserError("several files of motion modules", where=str(here), expected="one",
                        found=", ".join(path.name for path in found), hint="move the others away")
    return {"modules": found[0]} if found else {}


def opened(path: str) -> State:
    """Under the names of net.pth, from any of the files above. UserError: another file."""
    found = files(path) if os.path.isdir(path) else {"net": Path(path)}
    if "unet" in found:
        modules = found.get("modules")
        return net.from_stable_diffusion(read_state_dict(found["unet"]),
                                         read_state_dict(modules) if modules else None)
    if "net" not in found:
        return {f"{network}.{name}": value for network, file in found.items()
                for name, value in read_state_dict(file).items()}
    state = read_state_dict(found["net"])
    if not any(name.startswith(tuple(net.NETWORKS)) for name in state):
        return net.from_stable_diffusion(state)
    return state


def write(params, config) -> State:
    """Our parameters -> the names of net.pth. UserError: a network that Hallo2 has not."""
    if config.motion_shift:
        raise UserError("Hallo2's time embedding does not see motion tokens",
                        where="config.system.motion_shift", expected="False", found="True",
                        hint="use its Orbax checkpoint as it is")
    if config.reference_input:
        raise UserError("Hallo2's denoiser does not see the reference beside its input",
                        where="config.system.reference_input", expected="False", found="True",
                        hint="use its Orbax checkpoint as it is")
    return net.export_net(params, config)


# what Stable Diffusion, or AnimateDiff, does not bring
FRESH = (r"denoiser/.*/motion/.*", r"denoiser/.*/temporal/.*")

PUBLISHED = Published(
    experiment="hallo2",
    read=net.import_net,
    write=write,
    sizes=sizes,
    opened=opened,
    files=files,
    training=("mapper", "windows"),
    fresh=lambda config: FRESH,
    unread=net.unread,
)
