"""Published ResNet-18 state dicts (torchvision's names) -> parameters of
avjax.encoders.resnet.ResNet, norm "batch".

Each batch norm is folded, with its running statistics, into the convolution before it:
    kernel' = kernel * g,  bias' = beta - mean * g,  g = gamma / sqrt(variance + eps).
One way only: the statistics cannot be taken out again. The classifier `fc` is left out.
"""

import re
from collections.abc import Sequence

import numpy as np

from avjax.encoders.resnet import BLOCKS
from avjax.errors import UserError
from avjax.weights.fold import put

EPS = 1e-5
_IGNORED = re.compile(r"fc\.(weight|bias)|.*\.num_batches_tracked")


def convolutions(blocks: Sequence[int] = BLOCKS) -> list[tuple[str, str, str]]:
    """(published convolution, published norm, our path) of the network; `skip` ones may be
    absent."""
    out = [("conv1", "bn1", "conv_in/conv")]
    for i, count in enumerate(blocks, 1):
        for j in range(count):
            theirs, ours = f"layer{i}.{j}", f"layer{i}_{j}"
            out += [(f"{theirs}.conv{k}", f"{theirs}.bn{k}", f"{ours}/conv{k}/conv")
                    for k in (1, 2)]
            out.append((f"{theirs}.downsample.0", f"{theirs}.downsample.1", f"{ours}/skip/conv"))
    return out


def import_resnet(state: dict[str, np.ndarray], blocks: Sequence[int] = BLOCKS,
                  eps: float = EPS) -> dict:
    """{published name: array} -> nested float32 parameters. UserError for entries missing or left
    over."""
    left = {name: np.asarray(value) for name, value in state.items()
            if not _IGNORED.fullmatch(name)}
    params: dict = {}
    for conv, norm, ours in convolutions(blocks):
        if ".downsample." in conv and f"{conv}.weight" not in left:
            continue  # the skip of a block that keeps size and width
        kernel = _take(left, f"{conv}.weight")
        gamma, beta, mean, variance = (_take(left, f"{norm}.{name}").astype(np.float64)
                                       for name in ("weight", "bias", "running_mean",
                                                    "running_var"))
        gain = gamma / np.sqrt(variance + eps)
        put(params, f"{ours}/kernel", (kernel.transpose(2, 3, 1, 0) * gain).astype(np.float32))
        put(params, f"{ours}/bias", (beta - mean * gain).astype(np.float32))
    if left:
        raise UserError("checkpoint entries left over", where=sorted(left)[0],
                        found=f"{len(left)} unused entries", expected="a ResNet of basic blocks",
                        hint="check that the file is a ResNet-18's")
    return params


def _take(left: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in left:
        raise UserError("checkpoint entry missing", where=name,
                        expected="torchvision's names of ResNet-18",
                        found=", ".join(sorted(left)[:3]) or "nothing more",
                        hint="check which network the file is of")
    return left.pop(name)
