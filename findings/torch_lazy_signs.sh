#!/usr/bin/env bash
# A conjugated PyTorch tensor is saved with the other sign.
#
# Guessed: torch.save and safetensors.torch.save_file store the numbers that the tensor shows, so
#   a reader without PyTorch needs only dtype, shape, strides and bytes.
# Seen: conjugation and negation are lazy. torch.save stores the numbers from before them, and
#   says so only in the optional last argument of _rebuild_tensor_v2, {"conj": True} or {"neg":
#   True}. safetensors has no place for such a mark: the saved tensor comes back with the wrong
#   sign, and nothing is said (safetensors/safetensors issue 831).
# Versions: torch 2.13.0 (its CPU build is enough), safetensors 0.8.0, numpy 2.4.6.
# Why it matters: Fourier bases of vocoders and rotary tables kept as complex numbers are buffers
#   of talking-avatar models, and the inverse of either is a conj() away. With the wrong sign a
#   rotation turns backwards and speech runs backwards in every frame, yet no shape and no norm
#   looks wrong.
# avjax: avjax/weights/plain_pickle.py reads the marks, avjax/weights/torch_zip.py applies them.
#   What a .safetensors has lost no reader can know: call resolve_conj() and resolve_neg() first.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet torch==2.13.0 safetensors==0.8.0 numpy==2.4.6 || exit 2

venv/bin/python - <<'PY'
import pickletools
import sys
import zipfile

import numpy as np
import torch
from safetensors.torch import load_file, save_file


def stored(path, dtype):
    """The numbers in the one storage of a torch.save file, and the text in its pickle."""
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        numbers = np.frombuffer(archive.read(names["data/0"]), dtype)
        texts = {text for _, text, _ in pickletools.genops(archive.read(names["data.pkl"]))}
    return numbers, texts


basis = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
conjugated = basis.conj()
negated = torch._neg_view(torch.tensor([1.0, 3.0]))  # what the imaginary part of conj() is
as_stated = True
for mark, tensor, dtype in (("conj", conjugated, np.complex64), ("neg", negated, np.float32)):
    torch.save(tensor, "tensor.pt")
    numbers, texts = stored("tensor.pt", dtype)
    save_file({"x": tensor}, "tensor.safetensors")
    back = load_file("tensor.safetensors")["x"].tolist()
    print(f"{mark}: the tensor is {tensor.tolist()}")
    print(f"  torch.save: storage {numbers.tolist()}, marked {mark!r}: {mark in texts}")
    print(f"  safetensors gives back {back}")
    opposite = tensor.conj() if mark == "conj" else -tensor
    as_stated &= numbers.tolist() == back == opposite.tolist() and mark in texts
    as_stated &= torch.load("tensor.pt").tolist() == tensor.tolist()
if not as_stated:
    sys.exit("CHANGED: a lazily conjugated or negated tensor is saved otherwise now")
print("as stated: PyTorch reads the mark, safetensors has lost it")
PY
