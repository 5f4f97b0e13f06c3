"""The kernels that a step launches, by kind, from the compiled program's text."""

import collections
import re

from avjax.planning.hlo import Instruction, Module
from avjax.planning.roofline import NO_TRAFFIC

_TARGET = re.compile(r'custom_call_target="([^"]+)"')
ATTENTION = "fused attention"
# parts of the names of library calls; the first that fits
LIBRARIES = (("__cudnn$fmha", ATTENTION), ("__cudnn$conv", "cuDNN convolution"),
             ("__cublas", "cuBLAS product"), ("tpu_custom_call", "Pallas"), ("triton", "Triton"))
SPLASH = re.compile(r"splash_\w*mha|flash_attention")  # names of JAX's attention kernels for TPUs


def count(module: Module) -> dict[str, int]:
    """{kind: launches a step}, the most frequent first. Kinds: "fusion", those of LIBRARIES and
    "fused attention", else the operation's own name."""
    found: collections.Counter[str] = collections.Counter()
    for one, times, _ in module.executed():
        kind = kind_of(one)
        if kind:
            found[kind] += times
    return dict(found.most_common())


def kind_of(one: Instruction) -> str:
    """"" for what launches nothing."""
    if one.opcode in NO_TRAFFIC or one.opcode.endswith(("-done", "-update")):
        return ""
    if all(a.dtype == "pred" and not a.dims for a in one.results):
        return ""  # whether a loop goes on, which the host knows
    if one.opcode == "fusion":
        return "Triton" if "__triton" in one.rest else "fusion"
    if one.opcode != "custom-call":
        return one.opcode.removesuffix("-start")
    target = _TARGET.search(one.rest)
    name = target.group(1) if target else "custom-call"
    kind = next((kind for part, kind in LIBRARIES if part in name), name)
    return ATTENTION if kind == "Pallas" and SPLASH.search(one.name + one.rest) else kind
