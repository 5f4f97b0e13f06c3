"""launch.generate from a checkpoint: films, sounds and latents of every task, in a folder and in a
bucket, several requests together, streamed, and by the command line."""

import io
import json
import types

import av
import jax
import numpy as np
import pytest
import soundfile

from avjax.checkpoint.checkpoints import Checkpoints
from avjax.errors import UserError
from avjax.inference.generator import Generator, generate_split
from avjax.storage import paths
from data_pipelines import media, prompting
from data_pipelines.features.talker import prompt as talker
from data_pipelines.store import dataset as store
from launch import generate as command
from launch import training
from launch.jobs import generate, targets, video
from launch.jobs.requests import run as requests_run
from tests import commands
from tests.checkpoint import fake_gcs
from tests.launch import never_trained
from tests.systems.talker_tiny import random_params

store_of_buckets = fake_gcs.store
workdir, parts = never_trained.workdir, never_trained.parts
pytestmark = pytest.mark.usefixtures("shared_avatars")
TEXT = "My brother bought a big blue boat."
LONG = f"{TEXT} We happily paddled home, my brother and I; then we slept. " * 4


def save(folder, parts):
    checkpoints = Checkpoints(folder)
    checkpoints.save(0, {"params": jax.tree.map(jax.numpy.asarray, random_params(parts[0]))},
                     {"recipes": parts[2].recipes})
    checkpoints.close()


@pytest.fixture(scope="module")
def trained(workdir, parts):
    save(workdir, parts)
    return workdir


@pytest.mark.slow
def test_four_tasks_from_one_checkpoint(trained, tmp_path, capsys):
    for task in ("t2av", "tts", "a2v", "v2a"):
        files = generate.generate(trained, task=task, example="valid/0",
                                  max_seconds=0 if task in talker.WHOLE else 2,
                                  out=tmp_path / task, save_latents=True)
        assert files.keys() == ({"wav", "npz"} if task == "tts" else {"wav", "npz", "mp4"})
        sound, rate = soundfile.read(files["wav"])
        latents = np.load(files["npz"])
        assert rate == 24000 and len(sound) == 960 * len(latents["audio"]) > 0
        if task != "tts":
            assert abs(media.probe(files["mp4"]).video.duration - len(sound) / rate) < 1 / 30
            assert abs(len(latents["motion"]) - len(latents["audio"])) <= 2
    assert sorted(p.suffix
                  for p in tmp_path.iterdir()) == [".json"] * 4 + [".mp4"] * 3 + [".npz"] * 4 + [
                      ".wav"] * 4, "no leftovers"
    record = json.loads((tmp_path / "tts.json").read_text())
    assert record["files"] == ["tts.npz", "tts.wav"] and record["request"]["task"] == "tts"
    avatar = generate.Avatar(trained)
    dataset = store.open_dataset(avatar.config.data.dir)
    scored = Generator(avatar.system, batch_size=2, seed=0)
    [(_, streams)] = generate_split(scored, avatar.params, dataset, "valid", [0], "a2v")
    np.testing.assert_allclose(np.load(tmp_path / "a2v.npz")["motion"], streams["motion"],
                               atol=1e-5, err_msg="what its evaluation makes")
    row = dataset.source("valid")[0]
    np.testing.assert_array_equal(np.load(tmp_path / "a2v.npz")["audio"], row["audio"])
    np.testing.assert_array_equal(np.load(tmp_path / "v2a.npz")["motion"], row["motion"])
    capsys.readouterr()

    report = generate.stream(trained, targets.targets(str(tmp_path / "streamed"), ""), task="t2av",
                             example="valid/0", max_seconds=2)
    made = np.load(tmp_path / "t2av.npz")
    assert report["complete"] and report["look_ahead"]["sound"]["ms"] is None
    sound, rate = soundfile.read(tmp_path / "streamed.wav")
    assert len(sound) == len(made["audio"]) * 960 and rate == 24000
    with av.open(str(tmp_path / "streamed.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == round(len(sound) / rate * 30)
    with pytest.raises(UserError, match="talker chooses its chunks itself; where: --chunk"):
        generate.stream(trained, targets.targets(str(tmp_path / "streamed"), ""), task="tts",
                        example="valid/0", chunk=5)


@pytest.mark.slow
def test_a_workdir_in_a_bucket(workdir, parts, store_of_buckets, monkeypatch):
    there = paths.folder("gs://bucket/run")
    training.write_run_files(generate.load_config(workdir), there, parts[2])
    save(there, parts)
    before = set(store_of_buckets)
    values = {name: field.kind() for name, (field, _) in prompting.inputs().items()} | dict(
        task="tts", example="valid/0", max_seconds=2.0)
    monkeypatch.setattr(command, "flags", types.SimpleNamespace(FLAGS=types.SimpleNamespace(
        workdir=str(there), out="", requests="", seed=0, step=-1, steps=0, guidance=None,
        temperature=None, vocoder="", geometry="", length_scale=None, token_temperature=None,
        stream=False, format="", save_latents=True, **dict.fromkeys(command.STREAM, -1), **values)))
    command.main([])
    assert set(store_of_buckets) - before == {f"bucket/run/sample.{end}"
                                              for end in ("json", "wav", "npz")}
    sound, rate = soundfile.read(io.BytesIO(store_of_buckets["bucket/run/sample.wav"][0]))
    assert rate == 24000 and len(sound) > 0

    def broken(path, streams):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(video, "save", broken)
    for name in set(store_of_buckets) - before:
        del store_of_buckets[name]
    with pytest.raises(KeyboardInterrupt):
        command.main([])
    assert set(store_of_buckets) == before


@pytest.mark.slow
def test_pieces_one_by_one_in_a_batch_and_streamed(trained, tmp_path, monkeypatch, capsys):
    requests = {"a": {"text": LONG[:60], "piece_seconds": 2.4, "max_seconds": 2},
                "b": {"text": TEXT, "max_seconds": 2},
                "c": {"text": LONG[60:130], "piece_seconds": 2.0, "max_seconds": 2,
                      "speaker": "ben"}}
    avatar = generate.Avatar(trained, batch_size=2)
    prompts = {name: avatar.prompt(**request) for name, request in requests.items()}
    made = {name: avatar.finish(prompts[name], out) for name, out in avatar.generate_all(prompts)}
    alone = avatar.generate(prompts["c"])
    told = capsys.readouterr().err
    assert "pieces of 2.08, 1.44" in told and "motion from frame to frame" in told
    for name in ("audio", "motion"):
        np.testing.assert_allclose(alone[name], made["c"][name], atol=1e-4, err_msg=name)

    monkeypatch.setattr(generate, "Avatar", lambda *a, **kw: avatar)  # what it has compiled
    how = {"format": "wav", "chunk": -1, "vocoder_block": -1, "vocoder_ahead": -1}
    file = tmp_path / "requests.jsonl"
    file.write_text("\n".join(json.dumps({"id": n} | r) for n, r in requests.items()))
    wanted = [trained, file, tmp_path / "out"]
    assert requests_run.run(*wanted, streamed=how, batch_size=2) == (3, 0)
    for name, prompt in prompts.items():
        record = json.loads((tmp_path / f"out/{name}.json").read_text())
        went = record["stream"]
        assert record["files"] == [f"{name}.wav"] and went["complete"] and went["rows"] == 2
        assert went["first_packet_s"] > 0 and "count" in went["stalls"]
        sound, _ = soundfile.read(tmp_path / f"out/{name}.wav")
        assert len(sound) == len(made[name]["audio"]) * 960
        assert went["seconds"] == pytest.approx(len(sound) / 24000, abs=1e-3)
        assert ("pieces" in record) == (name != "b")
        if name != "b":
            assert record["pieces"] == len(prompt.pieces) == len(went["pieces"])
            assert sum(x["seconds"] for x in went["pieces"]) == pytest.approx(went["seconds"])
    assert requests_run.run(*wanted, streamed=how, batch_size=2) == (0, 3)
    assert sorted(p.suffix for p in (tmp_path / "out").iterdir()) == [".json"] * 3 + [".wav"] * 3


@pytest.mark.slow
def test_command_line(trained):
    def run(*arguments):
        return commands.run("generate", f"--workdir={trained}", *arguments)
    done = run(f"--text={TEXT}", "--task=tts", "--max_seconds=1.5", "--stream", "--steps=2",
               "--guidance=1")
    assert done.returncode == 0 and f"wrote {trained / 'sample.wav'}" in done.stdout, done.stderr
    done = run(f"--text={TEXT}", "--task=sing")
    assert done.returncode == 2 and done.stderr.startswith("error: unknown task") and len(
        done.stderr.splitlines()) == 1
