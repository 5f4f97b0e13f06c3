"""How the Speaker Mapper's ResNet is published: torchvision's ResNet-18 (or -34), whose file fills
`resnet/` (avjax/encoders/published/resnet.py); the layers after it are ours and fresh.

On a map (stem "map") the first convolution is fresh as well: it is of another size, and sees other
channels.
"""

from avjax.encoders.published.resnet import export_resnet, import_resnet, resnet_sizes
from avjax.errors import UserError
from avjax.weights.published import Published

STEM = r"resnet/conv_in/.*"


def read(state, config) -> dict:
    """Published names -> {"resnet": parameters}. UserError: another network, or a config that has
    no place for it."""
    found = resnet_sizes(state)
    wanted = {name: tuple(config[name]) for name in found}
    if config.inputs == "none" or config.norm != "batch" or found != wanted:
        raise UserError("the Speaker Mapper's ResNet is another one than the file's",
                        where="config.system", expected=f"inputs pixels or reference, norm batch, "
                        f"widths {found['widths']}, blocks {found['blocks']}",
                        found=f"inputs {config.inputs}, norm {config.norm}, widths "
                        f"{wanted['widths']}, blocks {wanted['blocks']}",
                        hint="import with --config=configs/tavid.py:portrait")
    resnet = import_resnet(state, config.blocks)
    if config.stem == "map":
        del resnet["conv_in"]
    return {"resnet": resnet}


def write(params, config) -> dict:
    """{"resnet": ...} and more -> published names of the ResNet alone. UserError: one that
    torchvision has not."""
    if config.inputs == "none" or config.norm != "batch" or config.stem != "image":
        raise UserError("torchvision's ResNet is another network", where="config.system",
                        expected="inputs pixels or reference, norm batch, stem image",
                        found=f"inputs {config.inputs}, norm {config.norm}, stem {config.stem}",
                        hint="use its Orbax checkpoint as it is")
    return export_resnet(params["resnet"], config.blocks)


PUBLISHED = Published(
    experiment="tavid:portrait",
    read=read,
    write=write,
    sizes=lambda state, config: resnet_sizes(state),
    fresh=lambda config: (STEM,) if config.stem == "map" else (),
)
