"""The face reader: through launch.train on a miniature dataset it learns to read pictures, and its
workdir gives the codec."""

import jax
import numpy as np
import pytest

from avjax.codecs import face_reader as codec
from avjax.errors import UserError
from avjax.systems.api import build
from avjax.systems.face_reader import system as face_reader
from configs import face_reader as job
from data_pipelines.features.common import trained as networks
from data_pipelines.features.decoded import extract as decoded
from data_pipelines.store.dataset import open_dataset, write_dataset
from data_pipelines.store.schema import Feature
from launch import training

SIZE, MOTION = 16, 3
TINY = {"system.size": SIZE, "system.patch": 2, "system.widths": (16, 32), "system.blocks": (0, 1),
        "system.squeeze": 8, "system.hidden": 32, "system.motion_dim": MOTION, "system.noise": 0.01,
        "system.soften": 0.5, "data.batch_size": 4, "data.threads": 0,
        "optimizer.learning_rate": 5e-3, "optimizer.warmup_steps": 10, "train.steps": 100,
        "train.checkpoint_every": 100, "train.evaluate_every": 100, "train.loss_examples": 4,
        "train.peak_flops": 1e11,
        "mesh.data": 1, "mesh.fsdp": 1}


def clip(rng, frames):
    """A square of random colour on a random ground: its place (x, y) and width are the motion."""
    motion = rng.uniform(-1, 1, (frames, MOTION)).astype(np.float32)
    y, x = np.mgrid[:SIZE, :SIZE] / (SIZE - 1) - 0.5
    ground, ink = rng.uniform(0, 100, 3), rng.uniform(150, 255, 3)
    half = 0.18 + 0.08 * motion[:, 2, None, None]
    inside = [np.clip((half - np.abs(at - 0.2 * motion[:, i, None, None])) * SIZE + 0.5, 0, 1)
              for i, at in enumerate((x, y))]
    share = (inside[0] * inside[1])[..., None]
    return (ground + share * (ink - ground)).astype(np.uint8), motion


@pytest.fixture(scope="module")
def trained(tmp_path_factory, one_device):
    """(workdir, dataset's folder) of a job."""
    folder, rng = tmp_path_factory.mktemp("reader"), np.random.default_rng(0)
    features = {"id": Feature((), "str", "name"),
                "pictures": Feature((None, SIZE, SIZE, 3), "uint8", "pictures", rate=5.0),
                "motion": Feature((None, MOTION), "float32", "motion", rate=5.0)}

    def examples(split, count):
        for i in range(count):
            pictures, motion = clip(rng, 20)
            yield {"id": f"{split}{i}", "pictures": pictures, "motion": motion}

    write_dataset(folder / "data", name="squares", description="squares", features=features,
                  progress=False, splits={"train": examples("t", 60), "valid": examples("v", 4)},
                  recipes={"motion": {"kind": "square"}})
    config = job.get_config()
    config.data.dir = str(folder / "data")
    config.update_from_flattened_dict(TINY)
    training.run_training(config.lock(), folder / "job")
    return folder / "job"


def test_a_trained_reader_reads_unknown_pictures(trained):
    reader, rng = networks.load_face_reader(trained), np.random.default_rng(9)
    pairs = [clip(rng, 10) for _ in range(20)]  # colours that it has not seen
    pictures, motion = (np.concatenate(x) for x in zip(*pairs, strict=True))
    read = reader.read(pictures)
    assert all(np.corrcoef(read[:, i], motion[:, i])[0, 1] > 0.9 for i in range(MOTION))
    assert reader.recipe["motion"] == {"kind":
                                       "square"} and reader.read(pictures[:0]).shape == (0, MOTION)
    again = codec.from_recipe(reader.recipe, reader.arrays())
    np.testing.assert_array_equal(again.read(pictures[:7]), read[:7])
    with pytest.raises(UserError, match=r"another size.*\(pictures, 16, 16, 3\) uint8.*\(2, 20, "
                                        r"16, 3\)"):
        reader.read(np.zeros((2, 20, 16, 3), np.uint8))
    with pytest.raises(UserError, match="another face reader.*out/bias"):
        codec.from_recipe(reader.recipe, reader.arrays() | {"out/bias": np.zeros(9)})
    with pytest.raises(UserError, match="unknown face reader"):
        codec.from_recipe({"kind": "sd-vae"}, {})
    config = job.get_config()
    config.update_from_flattened_dict(TINY)
    system = build(config.system)
    conditions = {"pictures": pictures[None, :12],
                  "mask": (np.arange(12) < 9)[None].astype(np.float32)}
    made = jax.jit(lambda p,
                     c: system.generate(p, c, None)["motion"])(reader.params, conditions)[0]
    np.testing.assert_allclose(made[:9], read[:9], atol=1e-4)
    assert not np.asarray(made[9:]).any()


def test_rows():
    rng = np.random.default_rng(1)
    pictures, motion = clip(rng, 40)
    c = face_reader.tiny()
    c.update(dict(size=SIZE, motion_dim=MOTION, colour=0.0, soften=0.0, noise=0.0))
    example = {"pictures": pictures, "motion": motion}
    row = build(c).rows.build([example], rng)
    at = [int(np.flatnonzero((motion == m).all(-1))[0]) for m in row["motion"]]
    assert np.array_equal(row["pictures"], pictures[at])  # unchanged, and of the same moments
    assert [k // 5 for k in at] == list(range(8))  # one of each stretch
    c.update(dict(colour=0.1, soften=1.0, noise=0.02))
    row = build(c).rows.build([example], rng)
    at = [int(np.flatnonzero((motion == m).all(-1))[0]) for m in row["motion"]]
    changed = np.abs(row["pictures"].astype(float) - pictures[at]).mean((1, 2, 3))
    assert row["pictures"].dtype == np.uint8 and (changed > 0.5).all() and (changed < 40).all()
    ramp = np.broadcast_to(np.arange(5.0)[:, None, None], (1, 5, 5, 3))
    soft = face_reader._binomial(face_reader._binomial(ramp, 1), 2)
    # a ramp stays, its ends are drawn out
    np.testing.assert_allclose(soft[0, :, 2, 0], [0.25, 1, 2, 3, 3.75])
    with pytest.raises(UserError, match="differ in number.*40 and 39"):
        build(c).rows.build([{"pictures": pictures, "motion": motion[1:]}], rng)


def test_bad_sizes():
    for change, words in (({"size": 60}, "size.*multiple of 8"), ({"blocks": (1,)}, "blocks"),
                          ({"widths": (20, 32)}, "widths"),
                          ({"noise": 2.0}, "noise")):
        c = face_reader.tiny()
        c.update(change)
        with pytest.raises(UserError, match=words):
            build(c)


def test_pictures_through_a_vae_are_examples_of_their_own(trained, monkeypatch):
    class Darker:
        recipe = {"kind": "darker"}

        def arrays(self):
            return {"by": np.float32(2)}

        def latent_shape(self, height, width):
            return height, width, 3

        def encode(self, pictures):
            return pictures.astype(np.float32) / 2

        def decode(self, latents):
            return latents.astype(np.uint8)

    monkeypatch.setattr(decoded.trained, "load_picture_codec", lambda path: Darker())
    source = trained.parent / "data"
    made = decoded.extract(source, trained.parent / "decoded", vae="vae", per_example=5,
                           progress=False)
    assert made.splits == {"train": 120, "valid": 8} and made.recipes["decoded"]["kind"] == "darker"
    whole, (plain, dark) = open_dataset(source).source("valid")[1], [made.source("valid")[i]
                                                                     for i in (2, 3)]
    assert (plain["id"], dark["id"]) == ("v1", "v1/decoded")
    np.testing.assert_array_equal(plain["pictures"], whole["pictures"][[0, 4, 9, 14, 19]])
    np.testing.assert_array_equal(dark["pictures"], plain["pictures"] // 2)
    np.testing.assert_array_equal(dark["motion"], whole["motion"][[0, 4, 9, 14, 19]])
    with pytest.raises(UserError, match="a VAE is needed"):
        decoded.extract(source, trained.parent / "other")
