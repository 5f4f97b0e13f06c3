"""What a checkpoint of the wav2vec 2.0 family states beside its weights, in the forms that exist:

    fairseq          "args", an argparse.Namespace; or "cfg", a dict or omegaconf's DictConfig with
                     "model" and "task"; in "w2v_args", that of the network that was fine-tuned
    WavLM's own      "cfg", a flat dict
    transformers     config.json in the folder of the weights (ours says `do_normalize` there)

Nothing of it is executed: foreign objects are records (avjax/weights/plain_pickle.py).
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator, Mapping

from avjax.errors import UserError
from avjax.weights.plain_pickle import fields
from avjax.weights.reader import read_checkpoint

_LAYER = re.compile(r"\(\s*\d+\s*,\s*\d+\s*,\s*(\d+)\s*\)")


@dataclasses.dataclass(frozen=True)
class Stated:
    """What no shape of an array shows; None where nothing says it.

    num_heads; conv_strides; pre_norm: norms before attention; normalise: utterances to zero mean
    and unit variance; relative_distance: frames of WavLM's last bucket.
    """

    num_heads: int | None = None
    conv_strides: tuple[int, ...] | None = None
    pre_norm: bool | None = None
    normalise: bool | None = None
    relative_distance: int | None = None


NOTHING = Stated()


def stated(path) -> Stated:
    """Of a weights file or the folder of one. UserError: unreadable, or a config of impossible
    values."""
    path = pathlib.Path(path)
    beside = (path if path.is_dir() else path.parent) / "config.json"
    if beside.is_file():
        return _of_transformers(beside)
    if path.is_dir() or path.suffix in (".safetensors", ".npz"):
        return NOTHING
    tree = fields(read_checkpoint(path, foreign=True))
    found = {}
    for config in _configs(tree):  # of the pre-trained network before that of the head
        found = {k: v for k, v in config.items() if not _unknown(v)} | found
    strides = _strides(found.get("conv_feature_layers"))
    return _checked(Stated(num_heads=found.get("encoder_attention_heads"), conv_strides=strides,
                           pre_norm=found.get("layer_norm_first"),
                           normalise=found.get("normalize"),
                           relative_distance=found.get("max_distance")), path)


def _configs(tree: Mapping) -> Iterator[dict]:
    """Every config in a checkpoint, the innermost first."""
    for key in ("args", "cfg"):
        config = fields(tree.get(key))
        parts = [fields(config.get(part)) for part in ("model", "task")]
        for part in (config, *parts):
            inner = fields(part.get("w2v_args"))
            yield from (inner, *(fields(inner.get(p)) for p in ("model", "task")))
        yield from (*parts, config)


def _unknown(value) -> bool:
    """Nothing, or omegaconf's words for that ("???") and for a reference ("${task.normalize}")."""
    return value is None or (isinstance(value, str) and value.startswith(("${", "???")))


def _strides(layers) -> tuple[int, ...] | None:
    """Of fairseq's "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2", which it evaluates and we
    do not."""
    if not isinstance(layers, str):
        return None
    out: list[int] = []
    for part in layers.split("+"):
        body, _, times = part.partition("*")
        strides = [int(n) for n in _LAYER.findall(body)]
        out += strides * (int(times) if re.fullmatch(r" *\d{1,2} *", times) else 1)
    return tuple(out) or None


def _of_transformers(path: pathlib.Path) -> Stated:
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise UserError("unreadable config of a model", where=str(path), found=str(error),
                        hint="fetch it again, or take the weights out of that folder") from error
    if not isinstance(config, dict) or "num_attention_heads" not in config:
        return NOTHING  # of something else
    strides = config.get("conv_stride")
    return _checked(Stated(num_heads=config["num_attention_heads"],
                           conv_strides=tuple(strides) if isinstance(strides, list) else None,
                           pre_norm=config.get("do_stable_layer_norm"),
                           normalise=config.get("do_normalize"),
                           relative_distance=config.get("max_bucket_distance")), path)


def _checked(found: Stated, path) -> Stated:
    kinds = {"num_heads": int, "pre_norm": bool, "normalise": bool, "relative_distance": int,
             "conv_strides": int}
    for name, kind in kinds.items():
        value = getattr(found, name)
        values = value if isinstance(value, tuple) else (value,)
        if value is not None and not all(type(x) is kind and (kind is bool or x > 0)
                                         for x in values):
            raise UserError("a config of impossible values", where=f"{path}, {name}",
                            expected="yes or no" if kind is bool else "a whole number above 0",
                            found=repr(value), hint="fetch the checkpoint again")
    return found
