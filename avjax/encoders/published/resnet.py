"""Published ResNet-18 state dicts (torchvision's names) <-> parameters of
avjax.encoders.resnet.ResNet, norm "batch".

Each batch norm is folded, with its running statistics, into the convolution before it:
    kernel' = kernel * g,  bias' = beta - mean * g,  g = gamma / sqrt(variance + eps).
The statistics cannot be taken out again: an export has norms that only add the bias (mean 0,
variance 1 - eps, gamma 1), which is the same network, and comes back to the bit. The classifier
`fc` is left out.
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
    over, and for a network of other blocks than the basic ones."""
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


def export_resnet(params, blocks: Sequence[int] = BLOCKS, eps: float = EPS) -> dict:
    """The inverse of `import_resnet`, bit for bit; without the classifier."""
    out: dict[str, np.ndarray] = {}
    for conv, norm, ours in convolutions(blocks):
        node = params
        for part in ours.split("/"):
            node = node.get(part, {})
        if ".downsample." in conv and not node:
            continue
        kernel, bias = (np.asarray(node[name], np.float32) for name in ("kernel", "bias"))
        out |= {f"{conv}.weight": np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)),
                f"{norm}.weight": np.ones_like(bias), f"{norm}.bias": bias,
                f"{norm}.running_mean": np.zeros_like(bias),
                f"{norm}.running_var": np.full_like(bias, 1 - eps)}
    return out


def resnet_sizes(state: dict[str, np.ndarray]) -> dict:
    """{"widths", "blocks"} that the shapes show. UserError: another network."""
    stages: dict[int, set[int]] = {}
    for name in state:
        if match := re.fullmatch(r"layer(\d+)\.(\d+)\.conv1\.weight", name):
            stages.setdefault(int(match[1]), set()).add(int(match[2]))
    if "conv1.weight" not in state or not stages:
        raise UserError("not a ResNet's state dict", expected="conv1.weight and "
                        "layer1.0.conv1.weight (torchvision's names)",
                        found=", ".join(sorted(state)[:3]) or "nothing",
                        hint="check which network the file is of")
    if "layer1.0.conv3.weight" in state:
        raise UserError("a ResNet of bottleneck blocks", where="layer1.0.conv3.weight",
                        expected="basic blocks of two convolutions (ResNet-18 or -34)",
                        found="three convolutions a block", hint="take a ResNet-18's file")
    return {"widths": tuple(state[f"layer{i}.0.conv1.weight"].shape[0] for i in sorted(stages)),
            "blocks": tuple(len(stages[i]) for i in sorted(stages))}


def _take(left: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in left:
        raise UserError("checkpoint entry missing", where=name,
                        expected="torchvision's names of ResNet-18",
                        found=", ".join(sorted(left)[:3]) or "nothing more",
                        hint="check which network the file is of")
    return left.pop(name)
