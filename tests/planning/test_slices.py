"""Slices and machines by name, their wiring, and the libtpu that compiles for them."""


import pytest

from avjax.errors import UserError
from avjax.planning import libtpu, search, topologies
from avjax.sharding.mesh import make_mesh


@pytest.mark.parametrize(("name", "slices", "devices"),
                         [("v5e:16x16", 2, 512), ("v5p:4x4x8", 1, 128), ("v4:2x2x1", 1, 4),
                          ("tpu7x:2x2x2", 1, 16), ("h100:8", 4, 32), ("v6e:1x1", 1, 1),
                          ("gb200:72", 2, 144), ("b200:4", 1, 4)])
def test_a_slice_has_its_devices(name, slices, devices):
    topology = topologies.parse(name, slices)
    made = topologies.stand_ins(topology)
    assert topology.devices == len(made) == devices and topology.name == name
    assert len({(d.slice_index, d.coords, d.core_on_chip, d.id) for d in made}) == devices
    mesh = make_mesh({"data": -1, "fsdp": 1}, made, {"data": -1} if slices > 1 else None)
    assert mesh.shape["data"] == devices


@pytest.mark.parametrize("name", ["v3:4x4", "v5e:3x3", "v5e", "v5p:4x4", "v5p:2x3x4",
                                  "v5p:64x64x64", "h100:3", "v5e:16x32", "h100:16", "gb200:6",
                                  "gb200:76", "h100:8x2", "h100"])
def test_no_such_slice(name):
    with pytest.raises(UserError, match="expected"):
        topologies.parse(name)


def test_more_cards_than_a_machine_has_are_more_machines():
    with pytest.raises(UserError, match="there is no such slice.*h100:16.*1, 2, 4 or 8 GPUs.*"
                       "--topology=h100:8 --slices=2"):
        topologies.parse("h100:16")
    assert topologies.parse("h100:8", 2).described == "2 machines of h100:8, 8 GPUs each"


def test_rings_close_where_the_wiring_does():
    assert topologies.parse("v5e:8x16").rings() == (False, True)
    assert topologies.parse("v5p:4x4x8").rings() == (True, True, True)
    # optical switches close whole cubes only
    assert topologies.parse("v5p:2x4x4").rings() == (False, False, False)


def test_scaled_slices():
    base = topologies.parse("v5e:4x4")
    grown = [search.with_chips(base, chips) for chips in (16, 64, 256, 512)]
    assert [(t.name, t.slices) for t in grown] == [
        ("v5e:4x4", 1), ("v5e:8x8", 1), ("v5e:16x16", 1), ("v5e:16x16", 2)]
    assert search.with_chips(topologies.parse("v4:2x2x1"), 512).name == "v4:8x8x8"
    assert search.with_chips(topologies.parse("h100:8"), 32).slices == 4
    racks = [search.with_chips(topologies.parse("gb200:72"), n) for n in (36, 72, 288)]
    assert [(t.name, t.slices) for t in racks] == [("gb200:36", 1), ("gb200:72", 1),
                                                   ("gb200:72", 4)]
    with pytest.raises(UserError, match="no slices of so many"):
        search.with_chips(base, 48)


def test_libtpu_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="libtpu"):
        libtpu.find(str(tmp_path))
    (tmp_path / "libtpu").mkdir()
    (tmp_path / "libtpu" / "libtpu.so").touch()
    monkeypatch.setenv("AVJAX_LIBTPU", str(tmp_path))
    assert libtpu.find() == str(tmp_path / "libtpu" / "libtpu.so")


@pytest.mark.parametrize("version, reads",
                         [("0.0.42.1", True), ("0.0.48", False), ("0.0.52", False)])
def test_a_libtpu_that_this_jax_does_not_read_is_named(tmp_path, monkeypatch, version, reads):
    """What JAX 0.10 ends with is XLA's RET_CHECK, with a traceback."""
    library = tmp_path / "libtpu" / "libtpu.so"
    library.parent.mkdir()
    library.touch()
    (tmp_path / f"libtpu-{version}.dist-info").mkdir()
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ['requests; extra == "tpu"',
                                                                     'libtpu==0.0.42.*; extra == '
                                                                     '"tpu"'])
    other = libtpu.other_version(str(library))
    assert other.startswith(
        f"libtpu {version}, where jax ") and "libtpu 0.0.42.*" in other or reads and not other
