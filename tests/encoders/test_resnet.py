"""ResNet-18 against recorded numbers; portraits' embeddings keep what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from avjax.encoders import portrait
from avjax.encoders.degrade import blur, rotate, tint
from avjax.encoders.published.resnet import export_resnet, import_resnet
from avjax.encoders.resnet import ResNet
from avjax.errors import UserError
from tests.golden_files import cases, config, relative_error, some, under


@pytest.mark.parametrize("arrays", cases("resnet"))
def test_equal_to_the_recording(arrays):
    c = config(arrays)
    net = ResNet(3, c["widths"], c["blocks"], norm="batch")
    params = import_resnet(under(arrays, "sd/"), c["blocks"], c["bn_eps"])
    x_NHWC = jnp.asarray(arrays["x"].transpose(0, 2, 3, 1))
    both = jax.jit(lambda p, x: (net.apply({"params": p}, x, method="stages"),
                                 net.apply({"params": p}, x)))
    stages, pooled = both(params, x_NHWC)
    for name, ours in zip(("stem", "layer1", "layer2", "layer3", "layer4"), stages, strict=True):
        assert relative_error(ours.transpose(0, 3, 1, 2), arrays[name]) < 1e-5, name
    assert relative_error(pooled, arrays["pooled"]) < 1e-5
    again = import_resnet(export_resnet(params, c["blocks"], c["bn_eps"]), c["blocks"], c["bn_eps"])
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_import_refuses_other_networks():
    arrays = some("resnet")
    c = config(arrays)
    state = under(arrays, "sd/") | {"fc.weight": np.zeros((2, 64)),
                                    "bn1.num_batches_tracked": np.int64(3)}
    wanted = jax.tree.map(jnp.shape, import_resnet(state, c["blocks"]))
    net = ResNet(3, c["widths"], c["blocks"], norm="batch")
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert wanted == jax.tree.map(jnp.shape, shapes["params"])
    with pytest.raises(UserError, match="missing.*layer2.0.bn1.bias"):
        import_resnet({k: v for k, v in state.items() if k != "layer2.0.bn1.bias"}, c["blocks"])
    with pytest.raises(UserError, match="left over.*layer1.0.conv3.weight"):
        import_resnet(state | {"layer1.0.conv3.weight": np.zeros(3)}, c["blocks"])


def pictures(count, size=40):
    """Smooth random faces of a kind: background, disc and two bars of random colour, size and
    place."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    out = []
    for _ in range(count):
        radius, bar, height = rng.uniform(0.3, 0.42), rng.uniform(0.02, 0.06), rng.uniform(0.3, 0.4)
        face, hair = rng.uniform(90, 250, 3), rng.uniform(0, 90, 3)
        picture = np.full((size, size, 3), 230.0) - 30 * y[..., None]
        picture[(x - 0.5) ** 2 + (y - 0.5) ** 2 < radius**2] = face
        picture[(np.abs(y - height) < bar) & (np.abs(np.abs(x - 0.5) - 0.15) < 0.08)] = hair
        out.append(picture)
    return np.stack(out).astype(np.uint8)


def test_portrait_embedding():
    faces = pictures(40)
    encoder = portrait.fit(faces[:8], width=16)
    codes = encoder(faces)
    assert codes.shape == (40, 16) and codes.dtype == np.float32
    assert not codes[:, 7:].any() and codes[:, 0].any()  # eight pictures span seven directions
    assert np.abs(codes).max() < 15  # pictures that it was not fitted on do not explode
    again = portrait.from_recipe(encoder.recipe, encoder.arrays())
    np.testing.assert_array_equal(again(faces[9]), encoder(faces[9]))
    np.testing.assert_allclose(encoder(faces[9]), codes[9], atol=1e-4)
    larger = np.repeat(np.repeat(faces, 3, 1), 3, 2)  # the same pictures at another resolution
    np.testing.assert_allclose(encoder(larger), codes, atol=1e-3)
    with pytest.raises(UserError, match="do not differ"):
        portrait.fit(np.repeat(faces[:1], 3, 0))
    with pytest.raises(UserError, match="at least 32 pixels"):
        encoder(faces[:, :20])
    with pytest.raises(UserError, match="another make"):
        portrait.from_recipe(encoder.recipe, encoder.arrays() | {"map": np.zeros((3072, 15))})
    with pytest.raises(UserError, match="another make"):
        portrait.from_recipe(encoder.recipe, {})


def test_portrait_embedding_holds_under_degradations():
    """A degraded portrait of somebody unknown is nearer to its clean self than to anybody else."""
    faces = pictures(60)
    encoder = portrait.fit(faces[:40])
    clean = encoder(faces[40:])
    for worse in (lambda x: blur(x, 1.0), lambda x: rotate(x, 30.0), lambda x: rotate(x, -20.0)):
        codes = encoder(np.stack([worse(x) for x in faces[40:]]))
        distance = np.linalg.norm(codes[:, None] - clean[None], axis=-1)
        assert (distance.argmin(1) == np.arange(20)).mean() >= 0.9


def test_degradations_are_what_they_say():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (9, 12, 3)).astype(np.float32)
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0],
                     [0, 0, 1]])
    middle = (np.array(x.shape) - 1) / 2
    other = ndimage.affine_transform(x, turn, middle - turn @ middle, order=1, mode="nearest")
    np.testing.assert_allclose(rotate(x, 20), other, atol=1e-6)
    up = np.zeros((9, 9, 1), np.uint8)
    up[1, 4] = 200  # a dot above the middle goes to the left when turned counter-clockwise
    assert rotate(up, 90)[4, 1] == 200 and rotate(up, 90).sum() == 200
    spread = blur(np.pad(np.full((1, 1, 1), 1000.0), ((10, 10), (10, 10), (0, 0))), 2.0)[..., 0]
    variance = (spread.sum(1) / spread.sum() * (np.arange(21) - 10) ** 2).sum()
    assert variance == pytest.approx(4, rel=0.02)
    np.testing.assert_array_equal(tint(up, np.ones(1), np.full(1, 0.1))[0, 0], 26)


def test_area_means():
    x = np.arange(2 * 6 * 9, dtype=np.float32).reshape(2, 6, 9, 1)
    np.testing.assert_allclose(portrait.shrink(x, 2, 3), x.reshape(2, 2, 3, 3, 3, 1).mean((2, 4)),
                               rtol=1e-6)
    # any ratio
    np.testing.assert_allclose(portrait.shrink(x, 4, 5).mean((1, 2)), x.mean((1, 2)), rtol=1e-5)


def test_given_embedding(tmp_path):
    encoder = portrait.from_recipe({"kind": "given", "width": 6}, {})
    picture = tmp_path / "anna.png"
    np.save(tmp_path / "anna.face.npy", np.arange(6.0)[None])
    np.testing.assert_array_equal(encoder.of_file(picture, None), np.arange(6, dtype=np.float32))
    with pytest.raises(UserError, match="not computed here.*face.npy"):
        encoder(np.zeros((40, 40, 3), np.uint8))
    for bad in (np.zeros(6), np.arange(5.0), np.full(6, np.nan)):
        np.save(tmp_path / "anna.face.npy", bad)
        with pytest.raises(UserError, match="not a face embedding"):
            encoder.of_file(picture, None)
    (tmp_path / "anna.face.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match="unreadable"):
        encoder.of_file(picture, None)
    with pytest.raises(UserError, match="ben.face.npy"):
        encoder.of_file(tmp_path / "ben.png", None)
