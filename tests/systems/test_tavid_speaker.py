"""The Speaker Mapper: it learns voices of unknown faces from pictures alone, and reads what its
inputs say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.sharding.rules import named_leaves
from avjax.systems.api import abstract_params, build, new_params
from avjax.systems.tavid.speaker import config as presets
from avjax.training.optimizer import make_optimizer
from avjax.training.step import make_train_step
from configs import base
from data_pipelines.loading.loader import make_loader
from data_pipelines.store.dataset import write_dataset
from data_pipelines.store.schema import Feature
from eval.metrics import retrieval

SIZE, VOICE, FACE = 32, 6, 4


def tiny(**more):
    c = presets.tiny()
    c.update(dict(size=SIZE, face_dim=FACE, voice_dim=VOICE, widths=(8, 16), blocks=(1, 1),
                  hidden=32) | more)
    return c


def people(count, seed):
    """Portraits: a disc on a bar, by four numbers that also make the voice; face embeddings say
    nothing."""
    rng = np.random.default_rng(seed)
    who = rng.uniform(-1, 1, (count, 4))
    y, x = np.mgrid[:SIZE, :SIZE] / (SIZE - 1) - 0.5
    pictures = np.full((count, SIZE, SIZE, 3), 40.0)
    disc = x**2 + y**2 < (0.3 + 0.08 * who[:, 0, None, None]) ** 2
    pictures[disc] = 150
    pictures[..., 1] += 60 * who[:, 1, None, None] * disc
    pictures[..., 2] += 60 * who[:, 2, None, None] * disc
    pictures[np.broadcast_to(np.abs(y) < 0.05, disc.shape)] += 40
    pictures[..., 0] += 40 * who[:, 3, None, None]
    mix = np.random.default_rng(0).normal(size=(4, VOICE))
    voices = np.tanh(who @ mix) + 0.1 * rng.normal(size=(count, VOICE))
    faces = rng.normal(size=(count, FACE))
    return (pictures.clip(0, 255).astype(np.uint8), voices.astype(np.float32),
            faces.astype(np.float32))


def test_it_learns_faces_voices_from_a_dataset(tmp_path):
    """Through the store, the loader and the loop's step; then unknown faces are told apart by their
    voices, degraded or not."""
    pictures, voices, faces = people(240, 1)
    features = {"id": Feature((), "str", "name"),
                "portraits": Feature((2, SIZE, SIZE, 3), "uint8", "portraits"),
                "voices": Feature((2, VOICE), "float32", "voices"),
                "faces": Feature((2, FACE), "float32", "faces")}
    examples = [{"id": f"d{i}", "portraits": pictures[2 * i:2 * i + 2],
                 "voices": voices[2 * i:2 * i + 2],
                 "faces": faces[2 * i:2 * i + 2]} for i in range(120)]
    dataset = write_dataset(tmp_path / "features", name="mini", description="mini",
                            features=features, splits={"train": examples}, recipes={},
                            progress=False)
    system, config = build(tiny(face_dropout=0.5)), base.get_config()
    config.optimizer.update(dict(learning_rate=5e-3, schedule="cosine", clip_norm=1.0))
    params = new_params(system)
    optimizer = make_optimizer(config.optimizer, 150, params)
    state = {"step": jnp.zeros((), jnp.int32), "params": params,
             "opt_state": jax.jit(optimizer.transform.init)(params)}
    step, cosines = jax.jit(make_train_step(system, optimizer, seed=0)), []
    with make_loader(dataset, "train", system, batch_size=8, segment=1, seed=0,
                     threads=0) as loader:
        for _ in range(150):
            batch = next(loader)
            batch.pop("example")
            state, metrics = step(state, batch)
            cosines.append(float(metrics["cosine"]))
    still = [name for name,
             moved in named_leaves(jax.tree.map(lambda a, b: np.not_equal(a, b).any(), params,
                                                state["params"]))
             if not moved]
    assert not still  # every parameter learns
    assert np.mean(cosines[:5]) < 0.3 and np.mean(cosines[-20:]) > 0.6

    pictures, voices, faces = people(48, 2)
    generate = jax.jit(lambda p, c: system.generate(p, c, None)["voices"])
    for name, worse in retrieval.degraded(pictures):
        made = np.asarray(generate(state["params"],
                                   {"portraits": worse[:, None], "faces": faces[:, None]}))[:, 0]
        scores = retrieval.scores(made, voices)
        assert scores["times_chance"] >= 5 and scores["chance@1"] == pytest.approx(1 / 48), (name,
                                                                                             scores)
    assert retrieval.scores(made[::-1], voices)["times_chance"] < 5  # other people's faces


def test_inputs():
    pixels, maps, none = build(tiny()), build(presets.on_latents(tiny(), 8,
                                                                 4)), build(tiny(inputs="none"))
    assert set(pixels.example_spec) == {"portraits", "faces", "voices"}
    assert set(maps.example_spec) == {"reference", "latents", "faces", "voices"}
    assert set(none.example_spec) == {"faces", "voices"} and set(none.conditions_spec) == {"faces"}
    feature = tiny(map="reference_features")
    assert "latents" not in build(presets.on_latents(feature, 8, 4)).example_spec
    example = {"reference": np.ones((2, 8, 8, 4), np.float32),
               "faces": np.ones((2, FACE), np.float32), "voices": np.ones((2, VOICE), np.float32),
               "latents": np.arange(5, dtype=np.float16)[:, None, None, None, None]
               * np.ones((5, 2, 8, 8, 4), np.float16)}
    rows = [maps.rows.build([example], np.random.default_rng(i)) for i in range(12)]
    firsts, seconds = ({float(row["reference"][s].mean().round(3)) for row in rows} for s in (0, 1))
    assert firsts | seconds == {0.0, 1.0, 2.0, 3.0,
                                4.0} and rows[0]["reference"].dtype == np.float32
    # each speaker's own frame
    assert any(row["reference"][0].mean() != row["reference"][1].mean() for row in rows)
    alone = maps.rows.build([example | {"latents": example["latents"][:0]}],
                            np.random.default_rng(0))
    # speech without video: the reference picture
    np.testing.assert_allclose(alone["reference"], 1, atol=1e-5)
    for system, row in ((maps, rows[0]),
                        (none, none.rows.build([example], np.random.default_rng(0)))):
        params = abstract_params(system)
        loss = jax.eval_shape(system.loss, params, {k: v[None] for k, v in row.items()},
                              jax.random.key(1))[0]
        assert row.keys() == system.batch_spec.keys() and loss.shape == ()


def test_rows_are_degraded():
    pictures, voices, faces = people(2, 4)
    example = {"portraits": pictures, "voices": voices, "faces": faces}
    clean = build(tiny(degraded=0.0, colour=0.0, face_dropout=0.0, face_noise=0.0)).rows
    row = clean.build([example], np.random.default_rng(0))
    assert all(np.array_equal(row[name], example[name]) for name in example)
    rows = build(tiny(face_dropout=0.4)).rows
    made = [rows.build([example], np.random.default_rng(i)) for i in range(200)]
    without = np.mean([(row["faces"] == 0).all(-1) for row in made])
    assert 0.3 < without < 0.5
    again = rows.build([example], np.random.default_rng(7))
    assert all(np.array_equal(again[name], made[7][name]) for name in again)
    changed = np.mean([np.abs(row["portraits"].astype(float) - pictures).mean() for row in made])
    assert 2 < changed < 30 and made[0]["portraits"].dtype == np.uint8
    assert all(np.array_equal(row["voices"], voices) for row in made)


@pytest.mark.parametrize("change, words", [
    ({"inputs": "sound"}, "inputs.*pixels"), ({"blocks": (1,)}, "blocks.*2 numbers"),
    ({"norm": "layer"}, "norm.*group"), ({"inputs": "none", "face_dim": 0}, "face_dim"),
    ({"random_frame": True}, "random_frame"), ({"face_dropout": 1.0}, "face_dropout"),
])
def test_bad_configs_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        build(tiny(**change))
