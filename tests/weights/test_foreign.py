"""Checkpoints with a trainer's own objects beside the weights: these are stood for, never looked
up, made or called."""

import collections
import pickle
import struct

import numpy as np
import pytest

from avjax.errors import UserError
from avjax.weights.reader import read_checkpoint, read_state_dict
from launch.jobs.weights import describe
from tests.weights.torch_zips import Call, Global, Pickler, dumps, tensor, zip_pickle

STORAGE = {"0": struct.pack("<2f", 1, 2)}
W = tensor((2,), (1,))
New = collections.namedtuple("New", "kind args then")  # NEWOBJ, and then opcodes on what it made


def new(pickler, value):
    pickler.save(value.kind)
    pickler.save(value.args)
    pickler.write(pickle.NEWOBJ)
    for argument, opcode in value.then:
        pickler.write(pickle.MARK if opcode in (pickle.SETITEMS, pickle.APPENDS, pickle.ADDITEMS)
                      else b"")
        for part in argument if isinstance(argument, list) else [argument]:
            pickler.save(part)
        pickler.write(opcode)


Pickler.dispatch[New] = new
HYPER = {  # as Lightning, Hydra and fairseq save them
    "path": Call(Global("pathlib", "PosixPath"), "a", "b"),
    "color": Call(Global("__main__", "Color"), 1),
    "partial": Call(Call(Global("functools", "partial"), Global("torch.optim.adam", "Adam")),
                    state=({"lr": 1},)),
    "args": New(Global("argparse", "Namespace"), (), [({"lr": 1, "w": W}, pickle.BUILD)]),
    "dict": New(Global("x", "Dict"), (), [(["a", 1, "b", W], pickle.SETITEMS)]),
    "list": New(Global("omegaconf.listconfig", "ListConfig"), (1,), [([1, W], pickle.APPENDS)]),
    "set": New(Global("x", "Set"), (), [([1], pickle.ADDITEMS)]),
    "class": Global("torch.nn.modules.loss", "MSELoss"), "int": Global("builtins", "int")}


def save(path, tree):
    return zip_pickle(path, dumps(tree), STORAGE)


def test_weights_beside_foreign_objects_are_read_and_listed(tmp_path):
    path = save(tmp_path / "last.ckpt", {"hyper_parameters": HYPER, "state_dict": {"net.w": W}})
    assert {k: v.tolist() for k, v in read_state_dict(path).items()} == {"net.w": [1, 2]}
    lines = describe(str(path)).splitlines()
    assert lines[0].split()[:2] == ["state_dict.net.w",
                                    "(2,)"] and lines[-2].startswith("1 arrays, 2 numbers")
    assert "hyper_parameters.args  an object of argparse.Namespace, not read" in lines
    assert len(lines) == 1 + len(HYPER) + 2
    with pytest.raises(UserError, match="not executed.*found: pathlib.PosixPath"):
        read_checkpoint(path)  # who asks for the whole is told


@pytest.mark.parametrize(("module", "name", "args"), [
    ("os", "system", "touch {}"), ("builtins", "eval", "open('{}', 'w')"),
    ("builtins", "__import__", "antigravity"),
    ("pathlib", "Path.touch", "{}"), ("numpy", "load", "{}")])
def test_what_a_foreign_global_names_is_never_called(tmp_path, module, name, args):
    bait = tmp_path / "executed"
    path = save(tmp_path / "bad.pt", {"x": Call(Global(module, name), args.format(bait)),
                                      "model": {"w": W}})
    assert read_state_dict(path)["w"].tolist() == [1, 2]
    assert not bait.exists()


@pytest.mark.parametrize(("tree", "found"), [
    ({"model": {"w": W, "v": Call(Global("x", "make"), W)}}, "holds something else too.*v: an "
                                                             "object of x.make, not read"),
    ({"model": Call(Global("x", "Net")), "module": {"w": W}},
     "no weights.*an object of x.Net.*safetensors"),
    ({"model": {"w": W, "v": Call(Global("torch._utils", "_rebuild_new_tensor"), W)}},
     "found: torch._utils._rebuild_new"),
    ({"x": Call(Global("torch", "load"), "y"), "model": {"w": W}}, "found: torch.load"),
    ({"model": {"w": Call(Global("torch._tensor", "_rebuild_from_type_v2"),
                          Global("torch._utils", "_rebuild_tensor_v2"),
                          Global("bitsandbytes", "Int8Params"), (), None)}},
     "not executed.*into such a type"),
    ({"model": {"w": Call(Global("torch._tensor", "_rebuild_from_type_v2"), Global("os", "system"),
                          Global("torch", "Tensor"), ("true",), None)}},
     "not executed.*no allowed global"),
    ({"model": {"w": tensor((2,), (1,), storage="QInt8Storage")}}, "found: torch.QInt8Storage")],
                         ids=range(7))
def test_nothing_foreign_takes_part_in_weights(tmp_path, tree, found):
    with pytest.raises(UserError, match=found):
        read_state_dict(save(tmp_path / "w.pt", tree))


def test_state_given_to_a_foreign_global_does_not_stay(tmp_path):
    build = New(Global("x", "Y"), (), [])
    Pickler.dispatch[type(Ellipsis)] = lambda p, _: (
        p.save(Global("x", "Y")), p.save((None, {"name": "forged"})), p.write(pickle.BUILD))
    tree = read_checkpoint(save(tmp_path / "w.pt", {"a": ..., "b": build, "w": W}), foreign=True)
    assert repr(tree["b"]) == "an object of x.Y, not read" and np.array_equal(tree["w"], [1, 2])
