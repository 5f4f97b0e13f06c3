import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from avjax.errors import UserError
from avjax.sharding import mesh as meshes
from avjax.sharding.rules import like_params, param_shardings

MESH = dict(data=2, fsdp=2, tensor=2)
PARAMS = {"block": {"kernel": np.zeros((4, 6)), "bias": np.zeros(6)}, "scale": np.zeros(())}
RULES = ((r".*/kernel", ("fsdp", "tensor")), (r".*/bias", ("tensor",)), (r"scale", ()))


def place(rules, params=PARAMS, mesh=MESH):
    return param_shardings(params, rules, meshes.make_mesh(mesh))


def test_rules_place_every_parameter():
    shardings = place(RULES)
    assert shardings["block"]["kernel"].spec == P("fsdp", "tensor")
    assert shardings["block"]["bias"].spec == P("tensor")
    assert shardings["scale"].spec == P()
    both = place(((r".*/kernel", (("fsdp", "data"), None)), (r"(?!.*kernel).*", ())))
    assert both["block"]["kernel"].shard_shape((4, 6)) == (1, 6)


@pytest.mark.parametrize("rules, words", [
    (RULES[1:], ["block/kernel (4, 6)", "no sharding rule"]),
    ((*RULES, (r"block/.*", ())), ["more than one", "block/"]),
    (((r".*/kernel", ("fsdp", "tensr")), *RULES[1:]),
     ["unknown mesh axis", "'tensr'", "data, fsdp, seq, tensor"]),
    ((*RULES, (r"nothing", ("oops",))), ["unknown mesh axis", "'oops'"]),
    (((r".*/kernel", ("fsdp",)), *RULES[1:]), ["another rank", "block/kernel (4, 6)", "2 entries"]),
    (((r".*/kernel", ("fsdp", "fsdp")), *RULES[1:]), ["twice", "block/kernel"]),
    # the whole path must match
    (((r"kernel", ("fsdp", "tensor")), *RULES[1:]), ["no sharding rule", "block/kernel"]),
])
def test_wrong_rules_name_the_parameter(rules, words):
    with pytest.raises(UserError) as error:
        place(rules)
    assert all(word in str(error.value) for word in words), error.value


def test_indivisible_dimension_names_parameter_dimension_and_axes():
    with pytest.raises(UserError) as error:
        place(RULES, {"block": {"kernel": np.zeros((4, 7)), "bias": np.zeros(6)},
                      "scale": np.zeros(())})
    for word in ("block/kernel (4, 7)", "dimension 1", "multiple of 2", "tensor", "found: 7"):
        assert word in str(error.value)


def test_optimizer_state_lies_as_its_parameters():
    import optax

    mesh = meshes.make_mesh(MESH)
    shardings = param_shardings(PARAMS, RULES, mesh)
    state = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam()).init(PARAMS)
    placed = like_params(state, PARAMS, shardings, mesh)
    assert placed[1].mu["block"]["kernel"].spec == P("fsdp", "tensor")
    assert placed[1].nu["block"]["bias"].spec == P("tensor")
    assert placed[1].count.spec == P()


@pytest.mark.parametrize("sizes, words", [
    (dict(data=3), ["does not divide", "8", "product 3"]),
    (dict(data=-1, fsdp=3), ["does not divide", "fsdp=3"]),
    (dict(data=2, fsdp=2), ["does not divide", "product 4"]),
    (dict(data=-1, fsdp=-1), ["at most one -1"]),
    (dict(data=0), [">= 1"]),
    (dict(dta=8), ["unknown mesh axis", "config.mesh.dta"]),
])
def test_wrong_meshes(sizes, words):
    with pytest.raises(UserError) as error:
        meshes.make_mesh(sizes)
    assert all(word in str(error.value) for word in words), error.value


def test_mesh_takes_what_is_left_and_is_auto():
    mesh = meshes.make_mesh(dict(data=-1, fsdp=2))
    assert dict(mesh.shape) == dict(data=4, fsdp=2, seq=1, tensor=1)
    assert all(t == jax.sharding.AxisType.Auto for t in mesh.axis_types)


def test_batch_is_split_over_data_and_fsdp():
    mesh = meshes.make_mesh(MESH)
    x = meshes.put_batch({"x": np.arange(8.0)}, meshes.batch_sharding(mesh))["x"]
    assert {shard.data.shape for shard in x.addressable_shards} == {(2,)}
    with pytest.raises(UserError, match="multiple of 8 = data 2 x fsdp 2 x "
                                        "config.optimizer.accumulate 2.*found: 12"):
        meshes.check_batch(12, mesh, accumulate=2)
