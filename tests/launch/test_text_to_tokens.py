"""Text that becomes tokens by a network in WORKDIR/text, and speech by the model that reads them;
what of it is scored."""

import json

import jax
import numpy as np
import pytest
import soundfile

from avjax.checkpoint.checkpoints import Checkpoints
from avjax.encoders import espeak
from avjax.errors import UserError
from avjax.systems import api
from avjax.systems.avflow import config as avflow
from avjax.systems.avflow.text import config as text_config
from configs import base
from data_pipelines import decode, extract
from data_pipelines.puppets import build
from data_pipelines.store import dataset as store
from eval.benchmarks.text_tokens import Benchmark
from eval.data import spoken
from launch import training
from launch.jobs import generate

TEXT = "My brother paid $5."


def trained(folder, system, dataset):
    """A workdir whose parameters are random."""
    c = base.get_config()
    c.system, c.data.dir = system, str(dataset.dir)
    training.write_run_files(c, folder, dataset)
    shapes = api.abstract_params(api.build(system))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape).astype(np.float32), shapes)
    checkpoints = Checkpoints(folder)
    checkpoints.save(0, {"params": params}, {"recipes": dataset.recipes,
                                             "config": training.plain(c)})
    checkpoints.close()


def small(**changes):
    c = text_config.tiny()
    c.update(dict(token_dim=espeak.WIDTH, row_symbols=200, euler_steps=2, std=2.0) | changes)
    c.encoder.update(dict(width=16, layers=1, d_ff=16, duration_width=8))
    c.unet.update(dict(channels=(8, 8), head_width=4, groups=4))
    return c


@pytest.fixture(scope="module")
def puppets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoken")
    return build.prepare(folder / "clips", sentences=3, speakers=2, valid=2, test=1,
                         progress=False)


@pytest.fixture(scope="module")
def features(puppets):
    return extract.extract(puppets.dir, puppets.dir.with_name("text_features"),
                           features="text_tokens", progress=False)


@pytest.fixture(scope="module")
def workdir(puppets, features):
    """AV-Flow that reads phoneme features, and text to tokens beside it."""
    folder = puppets.dir.with_name("run")
    dataset = extract.extract(puppets.dir, puppets.dir.with_name("features"), progress=False)
    c = avflow.Config.make(d_model=16, num_blocks=1, num_heads=2, d_ff=16, identity_dim=8,
                           token_dim=espeak.WIDTH, face_dim=16, head_dim=7, window=(3, 1),
                           euler_steps=2)
    trained(folder, c, dataset)
    trained(folder / "text", small(), features)
    return folder


def tokens_of(workdir, text=TEXT, language="", **settings):
    return generate.Avatar(workdir, **settings).prompt(text=text, language=language).given["tokens"]


def test_a_text_is_spoken_with_learned_timing(workdir, shared_avatars, tmp_path, capfd):
    files = generate.generate(workdir, out=tmp_path / "a", text=TEXT, save_latents=True)
    tokens_TC = np.load(files["tokens.npy"])
    assert files["tokens.npy"] == tmp_path / "a.tokens.npy" and tokens_TC.shape[1] == espeak.WIDTH
    with np.load(files["npz"]) as streams:
        assert len(tokens_TC) == len(streams["mel"]) == len(streams["face"])
    assert len(soundfile.read(files["wav"])[0]) == 256 * len(tokens_TC)
    assert "read as: My brother paid five dollars." in capfd.readouterr().err
    np.testing.assert_array_equal(tokens_of(workdir), tokens_TC)
    assert np.abs(tokens_of(workdir, seed=1) - tokens_TC).max() > 0.01
    slow = tokens_of(workdir, length_scale=2.0, token_temperature=0.0)
    assert len(slow) == 2 * len(tokens_TC)
    mine = generate.generate(workdir / "text", out=tmp_path / "e", text=TEXT)
    np.testing.assert_allclose(np.load(mine["tokens.npy"]), tokens_TC, atol=1e-5)
    assert set(mine) == {"tokens.npy", "durations.npy"}
    german = generate.Avatar(workdir).prompt(text="Guten Tag.", language="de")
    assert german.remarks == ("language de by a model that has learned en-us",)


def test_what_does_not_fit_is_one_line(workdir, features, tmp_path):
    with pytest.raises(UserError, match="avflow has no length_scale"):
        generate.Avatar(copy(workdir, tmp_path / "alone"), length_scale=2.0)
    alone = generate.Avatar(tmp_path / "alone")
    with pytest.raises(UserError, match="a language without a network that reads text"):
        alone.prompt(text=TEXT, language="de")
    beside = generate.Avatar(workdir)
    with pytest.raises(UserError, match="a sound that the table of symbols lacks"):
        beside.prompt(text="un bon vin", language="fr-fr")
    with pytest.raises(UserError, match="letters that are not spoken here"):
        beside.prompt(text="你好")
    recipes = features.recipes | {"tokens": {"kind": "units", "rate": 1.0}}
    other = copy(workdir, tmp_path / "other")
    (other / "recipes.json").write_text(json.dumps(
        json.loads((other / "recipes.json").read_text()) | {"tokens": recipes["tokens"]}))
    (other / "text").symlink_to(workdir / "text")
    with pytest.raises(UserError, match=r"tokens of another kind.*expected: units.*phones"):
        generate.Avatar(other)
    with pytest.raises(UserError, match="what is to be said.*expected: one of them"):
        generate.Avatar(workdir / "text").prompt(text=TEXT, example="valid/0")


def copy(workdir, to):
    """The workdir without its text to tokens."""
    to.mkdir()
    for entry in workdir.iterdir():
        if entry.name != "text":
            (to / entry.name).symlink_to(entry) if entry.is_dir() else (
                to / entry.name).write_bytes(entry.read_bytes())
    return to


# ---- what is scored


@pytest.fixture(scope="module")
def benchmark(features):
    c = base.get_config()
    c.system = small()
    return Benchmark(c, decode.Decoder.from_dataset(features), features, api.build(c.system))


def test_exact_durations_are_no_error(benchmark, features):
    """Each symbol of a phoneme takes a share of it, each mark its pause, blanks nothing."""
    for index, example in enumerate(features.source("valid")):
        true = spoken.stretches(example["phonemes"])
        assert sum(t for _, t in true) == pytest.approx(len(example["tokens"]) / 86.1328, abs=0.02)
        names = [name for name, _ in true]
        ids_P = example["symbols"]
        shares = np.array([spoken.shared_out(row, ids_P, names) for row in np.eye(len(ids_P))])
        np.testing.assert_allclose(shares.sum(1), 1, atol=1e-9)  # nothing is lost
        whole = shares.max(1) == 1
        frames = np.zeros(len(ids_P))
        for k, (_, seconds) in enumerate(true):
            members = np.flatnonzero(whole & (shares[:, k] == 1))
            frames[members] = seconds / max(len(members), 1) * 86.1328125
        streams = {"tokens": example["tokens"], "durations": frames}
        row = benchmark.score("valid", index, benchmark.model(streams, "model", "valid", index))
        silent = [t for k, (_, t) in enumerate(true) if not (whole & (shares[:, k] == 1)).any()]
        assert row["phoneme_error"] == pytest.approx(1000 * sum(silent) / len(true), abs=0.1)
        assert row["token_error"] == 0 and row["length_error"] == 0
        worse = benchmark.model(streams | {"durations": 2 * frames}, "model", "valid", index)
        assert benchmark.score("valid", index, worse)["phoneme_error"] > 30


def test_baselines(benchmark):
    rows = {v: [benchmark.score("valid", i, benchmark.baseline(v, "valid", i)) for i in (0, 1)]
            for v in benchmark.baselines}
    assert all(row["phoneme_error"] == row["token_error"] == 0 for row in rows["truth"])
    assert all(row["token_error"] > 0.5 and "phoneme_error" not in row for row in rows["shuffled"])
    assert all(5 < row["phoneme_error"] < 60 and "token_error" not in row for row in rows["mean"])
    assert all(row["length_error"] < 0.4 for row in rows["mean"])


def test_what_ctc_tokens_spell():
    tokens_TC = np.eye(29)[[8, 8, 2, 12, 12, 0, 12, 5, 1, 4]]
    letters = spoken.Spoken(tokens_TC, "wav2vec2-ctc")
    assert letters.labels == [8, 2, 12, 12, 5, 1, 4] and letters.letters == "HELLO A"
    assert spoken.Spoken(tokens_TC, "units").labels == [8, 2, 12, 0, 12, 5, 1, 4]


def test_the_command_shows_what_it_scores(workdir, benchmark, tmp_path, monkeypatch):
    from launch.jobs import evaluate

    config = generate.load_config(workdir / "text")
    config.evaluate.benchmark = "text_tokens"
    results = evaluate.evaluate(config, workdir / "text", splits=["valid"], out=tmp_path)
    assert results["summary"]["valid"]["truth"]["token_error"]["value"] == 0
    assert results["summary"]["valid"]["model"]["phoneme_error"]["value"] > 0
    assert store.open_dataset(config.data.dir).splits["valid"] == 2
    assert "tokens" in (tmp_path / "report.html").read_text()
