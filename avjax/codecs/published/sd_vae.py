"""Published Stable Diffusion VAE state dicts (AutoencoderKL) <-> our parameters: one name table,
both directions.

Published layouts: a convolution's weight is (out, in, k, k), a Linear's (out, in). Older files call
the attention's products query, key, value and proj_attn, and may keep them as 1x1 convolutions;
both are read, the newer names written.
"""

import re

import numpy as np

from avjax.errors import UserError
from avjax.weights.layouts import as_is, conv, pointwise, transposed
from avjax.weights.names import gather, scatter

OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD = re.compile(r"(.*mid_block\.attentions\.0\.)(query|key|value|proj_attn)\.(weight|bias)")


def vae_names(c):
    """Rows (published names, our name, layout, layer) of the network."""
    rows = []

    def both(theirs, ours, weight, name="kernel"):
        rows.append(((f"{theirs}.weight",), f"{ours}/{name}", weight, None))
        rows.append(((f"{theirs}.bias",), f"{ours}/bias", as_is, None))

    def resnet(theirs, ours, skip):
        for i in (1, 2):
            both(f"{theirs}.norm{i}", f"{ours}/norm{i}", as_is, "scale")
            both(f"{theirs}.conv{i}", f"{ours}/conv{i}", conv)
        if skip:
            both(f"{theirs}.conv_shortcut", f"{ours}/skip", pointwise)

    def mid(side):
        for i in range(2):
            resnet(f"{side}.mid_block.resnets.{i}", f"{side}/mid/resnets_{i}", False)
        a, b = f"{side}.mid_block.attentions.0", f"{side}/mid/attention"
        both(f"{a}.group_norm", f"{b}/norm", as_is, "scale")
        for x, y in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "out")):
            both(f"{a}.{x}", f"{b}/{y}", transposed)

    for side, blocks, ours, resize, layers in (("encoder", "down_blocks", "down", "downsamplers",
                                                c.layers),
                                               ("decoder", "up_blocks", "up", "upsamplers",
                                                c.layers + 1)):
        widths = c.channels if side == "encoder" else c.channels[::-1]
        both(f"{side}.conv_in", f"{side}/inputs", conv)
        for i, width in enumerate(widths):
            for j in range(layers):
                resnet(f"{side}.{blocks}.{i}.resnets.{j}", f"{side}/{ours}_{i}/resnets_{j}",
                       j == 0 and width != widths[max(i - 1, 0)])
            if i + 1 < len(widths):
                both(f"{side}.{blocks}.{i}.{resize}.0.conv", f"{side}/{ours}_{i}/resize", conv)
        mid(side)
        both(f"{side}.conv_norm_out", f"{side}/norm", as_is, "scale")
        both(f"{side}.conv_out", f"{side}/outputs", conv)
    both("quant_conv", "moments", pointwise)
    both("post_quant_conv", "latent", pointwise)
    return rows


def import_vae(state: dict[str, np.ndarray], config):
    """Published names -> parameters of `AutoencoderKL(config)`. UserError for an entry missing,
    unfit or left over."""
    renamed = {}
    for name, value in state.items():
        if match := _OLD.fullmatch(name):
            name = f"{match[1]}{OLD[match[2]]}.{match[3]}"
            value = value.reshape(value.shape[0], -1) if match[3] == "weight" else value
        renamed[name] = value
    return gather(renamed, vae_names(config))


def export_vae(params, config) -> dict[str, np.ndarray]:
    """The inverse of `import_vae`, bit for bit, under the newer names."""
    return scatter(params, vae_names(config))


def vae_sizes(state: dict[str, np.ndarray]) -> dict:
    """Sizes that the shapes of a published state dict show, which are not groups and
    scaling."""
    try:
        levels = _count(state, r"encoder\.down_blocks\.(\d+)\..*")
        channels = tuple(state[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0]
                         for i in range(levels))
        return dict(channels=channels,
                    layers=_count(state, r"encoder\.down_blocks\.0\.resnets\.(\d+)\..*"),
                    latent_dim=state["post_quant_conv.weight"].shape[0], patch=1, mid="attention",
                    shortcut=False)
    except KeyError as error:
        raise UserError("not a VAE's state dict", expected=f"an entry {error.args[0]}",
                        found=", ".join(sorted(state)[:3]) + ", ...") from error


def _count(state, pattern: str) -> int:
    return len({match[1] for match in map(re.compile(pattern).fullmatch, state) if match})
