#!/usr/bin/env bash
# safetensors.numpy 0.8 saves a transposed array with its numbers in the wrong places.
#
# Guessed: save_file of a numpy view either stores the numbers that the view shows, as 0.7.0 did
#   and numpy.save does, or refuses it, as safetensors.torch does.
# Seen: with 0.8.0 the shape of the view goes to the file with the memory of the array that it
#   views. No error, no warning (safetensors/safetensors issue 825).
# Versions: safetensors 0.8.0 against 0.7.0, numpy 2.4.6.
# Why it matters: a Flax kernel is (in, out), a PyTorch weight is (out, in): whoever exports a
#   talking-avatar model from JAX writes kernel.T for every dense layer. The file loads strictly,
#   all shapes are right, a square layer's too, and the model babbles.
# avjax: avjax/weights/names.py lays every exported array out anew before it is saved.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > export.py <<'PY'
import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

kernel = np.arange(6, dtype=np.float32).reshape(2, 3)  # Flax: 2 inputs, 3 outputs


def saved(array):
    try:
        save_file({"weight": array}, "layer.safetensors")
    except ValueError:
        return "refused"
    back = load_file("layer.safetensors")["weight"]
    print(f"safetensors {safetensors.__version__}: saved {array.tolist()}, read {back.tolist()}")
    return "right" if np.array_equal(back, array) else "wrong"


print(f"verdict: {saved(kernel.T)}, laid out first: {saved(np.ascontiguousarray(kernel.T))}")
PY

changed=
look() {  # look VERSION VERDICT
    python3 -m venv --clear venv || exit 2
    venv/bin/pip install --quiet "safetensors==$1" numpy==2.4.6 || exit 2
    found=$(venv/bin/python export.py)
    echo "$found"
    [[ $found == *"verdict: $2, laid out first: right" ]] || changed="$changed $1"
}
look 0.7.0 right
look 0.8.0 wrong
if [[ $changed ]]; then
    echo "CHANGED: a transposed array is saved otherwise now by safetensors$changed" >&2
    exit 1
fi
echo "as stated: 0.8.0 saves a transposed array wrongly without a word"
