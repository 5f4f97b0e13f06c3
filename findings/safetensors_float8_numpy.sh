#!/usr/bin/env bash
# safetensors.numpy writes float8 that it cannot read, and reads bfloat16 only by chance.
#
# Guessed: what safetensors.numpy.save_file writes, load_file reads; and whether a file can be
#   read does not depend on what else the program imports.
# Seen: save_file takes an ml_dtypes float8_e4m3fn array. load_file of that file raises
#   AttributeError, because it looks for numpy.float8_e4m3fn, with ml_dtypes imported or not.
#   bfloat16 raises TypeError, until anything has imported ml_dtypes (JAX does): a script that
#   inspects weights without JAX fails on a file that the training job reads.
# Versions: safetensors 0.8.0, numpy 2.4.6, ml_dtypes 0.6.0.
# Why it matters: language-model backbones and text encoders of talking-avatar models are
#   published in bfloat16 and more and more in float8; JAX programs read them through numpy. One
#   float8 array of hundreds makes the whole file unreadable.
# avjax: avjax/weights/reader.py lets safetensors check the file and makes the arrays itself, with
#   the number formats of avjax/weights/dtypes.py.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet safetensors==0.8.0 numpy==2.4.6 ml_dtypes==0.6.0 || exit 2

cat > write.py <<'PY'
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

for name in ("bfloat16", "float8_e4m3fn"):
    save_file({"x": np.array([1, 2], getattr(ml_dtypes, name))}, f"{name}.safetensors")
PY
cat > read.py <<'PY'
import sys

from safetensors.numpy import load_file

if sys.argv[2] == "with":
    import ml_dtypes  # only imported, never used
try:
    found = str(load_file(f"{sys.argv[1]}.safetensors")["x"].tolist())
except Exception as error:
    found = f"{type(error).__name__}: {error}"
print(found)
PY
venv/bin/python write.py

changed=
look() {  # look FORMAT with|without START: what reading gives must begin with START
    found=$(venv/bin/python read.py "$1" "$2")
    echo "$1 $2 ml_dtypes imported: $found"
    [[ $found == "$3"* ]] || changed="$changed $1 ($2 ml_dtypes)"
}
look bfloat16 without "TypeError"
look bfloat16 with "[1.0, 2.0]"
look float8_e4m3fn without "AttributeError"
look float8_e4m3fn with "AttributeError"
if [[ $changed ]]; then
    echo "CHANGED: safetensors.numpy reads otherwise now:$changed" >&2
    exit 1
fi
echo "as stated: float8 cannot be read back, bfloat16 only if ml_dtypes happens to be imported"
