"""One generator: the same request, checkpoint and seed give the same streams from launch.generate
(one by one, from a file of requests, chunk by chunk, on many devices and hosts) and from the
evaluation."""

import json
import shutil

import jax
import numpy as np
import pytest

from avjax.checkpoint.checkpoints import Checkpoints
from avjax.errors import StorageError, UserError
from avjax.inference.generator import Generator, generate_split
from avjax.sharding.mesh import make_mesh
from avjax.systems import api
from avjax.systems.avflow import config as avflow_config
from configs import base
from data_pipelines.features.avflow import extract
from data_pipelines.puppets import build
from data_pipelines.store import dataset as store
from launch import training
from launch.jobs import generate, video
from launch.jobs.requests import files as requests_files
from launch.jobs.requests import live as live_several
from launch.jobs.requests import run as requests_run
from tests.systems.talker_tiny import random_params

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_avatars")]
TEXT = "My brother bought a big blue boat."
STREAMS = ("mel", "face", "head")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdir of a tiny AV-Flow with random parameters, its dataset made of puppets."""
    folder = tmp_path_factory.mktemp("avflow")
    build.prepare(folder / "clips", sentences=2, speakers=2, valid=2, test=1, progress=False)
    dataset = extract.extract(folder / "clips", folder / "features", progress=False)
    c = base.get_config()
    c.system = s = avflow_config.default()
    s.update(dict(d_model=8, num_blocks=1, num_heads=1, d_ff=8, window=(3, 2), euler_steps=2,
                  token_dim=dataset.features["tokens"].shape[-1], identity_dim=8,
                  face_dim=dataset.features["face"].shape[-1],
                  head_dim=dataset.features["head"].shape[-1]))
    c.data.dir = str(dataset.dir)
    training.write_run_files(c, folder / "run", dataset)
    params = jax.tree.map(jax.numpy.asarray, random_params(api.build(s)))
    checkpoints = Checkpoints(folder / "run")
    checkpoints.save(0, {"params": params}, {"recipes": dataset.recipes})
    checkpoints.close()
    return folder / "run"


@pytest.fixture
def written(monkeypatch):
    """What would be decoded and written, {name of the output: streams}; one small file each."""
    made = {}

    def write(out, streams, decoder, prompt, latents=False):
        made[out.name] = streams
        path = video.suffixed(out, "wav")
        path.write_text("sound")
        return {"wav": path}

    monkeypatch.setattr(video, "write", write)
    return made


def assert_same(made, expected):
    for name in STREAMS:
        np.testing.assert_allclose(made[name], expected[name], atol=2e-5, err_msg=name)


def test_an_example_is_what_its_evaluation_makes(trained, written):
    dataset = store.open_dataset(generate.load_config(trained).data.dir)
    avatar = generate.Avatar(trained, seed=3)
    scored = Generator(avatar.system, batch_size=4, seed=3)
    by_index = dict(generate_split(scored, avatar.params, dataset, "valid", range(2)))
    generate.generate(trained, example="valid/1", seed=3)
    assert_same(written["sample"], by_index[1])
    assert len(written["sample"]["mel"]) == len(dataset.source("valid")[1]["mel"])
    generate.generate(trained, example="valid/1", seed=4)
    assert np.abs(written["sample"]["mel"] - by_index[1]["mel"]).max() > 1e-2


def test_requests_on_all_devices_and_hosts_are_single_ones(trained, written, tmp_path):
    requests = {"a": {"text": TEXT}, "b": {"example": "valid/0"},
                "c": {"text": "A boat."}, "d": {"text": TEXT, "speaker": "ben"}}
    file = tmp_path / "requests.jsonl"
    file.write_text("\n".join(json.dumps({"id": n} | r) for n, r in requests.items()) + "\n\n")
    for name, request in requests.items():
        generate.generate(trained, out=tmp_path / name, seed=1, **request)
    alone = dict(written)
    written.clear()
    assert len(jax.local_devices()) == 8, "the batch is spread over them"
    for host in range(2):
        assert requests_run.run(trained, file, tmp_path / "out", share=(host, 2),
                                          seed=1) == (2, 0)
    assert written.keys() == requests.keys()
    for name, streams in written.items():
        assert_same(streams, alone[name])
    written.clear()
    again = [trained, file, tmp_path / "out"]
    assert requests_run.run(*again, seed=1) == (0, 4) and not written
    (tmp_path / "out" / "b.wav").unlink()
    assert requests_run.run(*again, seed=1) == (1, 3) and written.keys() == {"b"}
    assert requests_run.run(*again, seed=2) == (4, 0), "other settings, other outputs"


def test_a_request_that_cannot_be_read_leaves_the_others(trained, written, tmp_path, capsys):
    file, out = tmp_path / "requests.jsonl", tmp_path / "out"

    def ask(**b):
        file.write_text("\n".join(json.dumps(r) for r in (
            {"id": "a", "text": TEXT}, {"id": "b"} | b, {"id": "c", "text": "A boat."})))
        return requests_run.run(trained, file, out)

    with pytest.raises(requests_files.NotMade, match="1 of 3 .*'b'.*takes no --txt.*same command"):
        ask(txt=TEXT)
    assert written.keys() == {"a", "c"} and "failed, request 'b'" in capsys.readouterr().err
    assert sorted(p.name for p in out.iterdir()) == ["a.json", "a.wav", "b.json", "c.json", "c.wav"]
    record = json.loads((out / "b.json").read_text())
    assert record["request"] == {"txt": TEXT} and "takes no --txt" in record["error"]
    with pytest.raises(UserError, match="1 of 3 .*'b'.*takes no --txt"):
        requests_files.check_all_made(file, out)
    (out / "b.json").unlink()
    with pytest.raises(UserError, match="1 of 3 .*'b': no record of it"):
        requests_files.check_all_made(file, out)
    assert ask(text="A cup.") == (1, 2)
    requests_files.check_all_made(file, out)


def failing(original, about, error):
    """The function, but for what concerns request b, of which it raises."""
    def call(*args, **kw):
        if about(*args):
            raise error
        return original(*args, **kw)
    return call


STAGES = {  # what fails, how it knows request b, why
    "sampling": (Generator, "_batch", lambda self, params, members, *_: "A cup." in [
        item.name for item, *_ in members], RuntimeError("out of memory")),
    "numbers": (generate.Avatar, "finish", lambda self, prompt, out: prompt.name == "A cup.",
                UserError("values that are not finite")),
    "writing": (video, "write", lambda out, *_: out.name == "b", ValueError("no picture")),
    "streamed": (live_several.Request, "add", lambda self, chunk: self._prompt.name == "A cup.",
                 ZeroDivisionError("nothing drawn")),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_request_that_fails_on_its_way_leaves_the_others(trained, written, tmp_path, monkeypatch,
                                                           capsys, stage):
    file, out = tmp_path / "requests.jsonl", tmp_path / "out"
    file.write_text("\n".join(json.dumps({"id": name, "text": text}) for name, text in (
        ("a", "A boat."), ("b", "A cup."), ("c", "A dog."))))
    out.mkdir()
    (out / "b.wav").write_text("of an earlier request")
    (out / "b.json").write_text(json.dumps({"files": ["b.wav"]}))
    where, name, about, error = STAGES[stage]
    how = {"streamed": {"format": "wav"}} if stage == "streamed" else {}
    avatar = generate.Avatar(trained)
    monkeypatch.setattr(generate, "Avatar", lambda *a, **kw: avatar)
    with monkeypatch.context() as broken:
        broken.setattr(where, name, failing(getattr(where, name), about, error))
        with pytest.raises(requests_files.NotMade, match=f"1 of 3 .*'b': .*{error}"):
            requests_run.run(trained, file, out, **how)
    assert str(error) in json.loads((out / "b.json").read_text())["error"]
    assert ("Traceback" in capsys.readouterr().err) != isinstance(error, UserError)
    assert sorted(p.name for p in out.glob("*.wav")) == ["a.wav", "b.old.wav", "c.wav"]
    assert (out / "b.old.wav").read_text() == "of an earlier request"
    assert requests_run.run(trained, file, out, **how) == (1, 2)
    requests_files.check_all_made(file, out)


def test_what_fails_in_company_is_found(tmp_path):
    asked = []

    def make(names):
        asked.append(names)
        for name in names:
            if name in bad:
                raise bad[name]
            yield name, name.upper()

    bad = {"c": ValueError("c"), "f": ValueError("f")}
    made = dict(requests_run.salvaged(make, "abcdefgh"))
    assert made == {n: bad.get(n, n.upper()) for n in "abcdefgh"}
    assert sum(map(len, asked)) < 24
    for full in (StorageError("away"), OSError(28, "No space left on device")):
        bad = {"b": full}
        with pytest.raises(StorageError):
            dict(requests_run.salvaged(make, "abc"))


def test_a_mesh_equals_one_device(trained):
    avatar = generate.Avatar(trained)
    dataset = store.open_dataset(avatar.config.data.dir)

    def made(**kw):
        return dict(generate_split(Generator(avatar.system, seed=0, **kw), avatar.params, dataset,
                                   "train", range(2)))

    one = made(batch_size=2)
    mesh = make_mesh({"data": 4, "fsdp": 2})
    spread = Generator(avatar.system, seed=0, batch_size=2, mesh=mesh)
    assert spread.batch_size == 8
    for index, streams in made(batch_size=2, mesh=mesh).items():
        assert_same(streams, one[index])


@pytest.mark.parametrize("lines, message", [
    (['{"text": "a"}'], "a request without an id.*requests.jsonl:1"),
    (['{"id": "../x", "text": "a"}'], "without an id"),
    (['{"id": "x"}', "", '{"id": "x"}'], "two requests of one id.*:3"),
    (["text"], "not a request.*:1.*found: text"),
    ([], "no requests"),
    (['{"id": "x", "txt": "a"}'], "request 'x': avflow takes no --txt"),
    (['{"id": "x", "text": 3}'], "another type; where: --text"),
])
def test_requests_that_cannot_be_read(trained, tmp_path, lines, message):
    file = tmp_path / "requests.jsonl"
    file.write_text("\n".join(lines))
    with pytest.raises(UserError, match=message):
        requests_run.run(trained, file, tmp_path / "out")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
