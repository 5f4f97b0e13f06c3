"""Named benchmarks: their declarations, and folders of generated films and sounds scored by them,
the truth being the recordings themselves."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from avjax.errors import PARTIAL, UserError
from data_pipelines.ingest.common import recordings
from data_pipelines.media import faces, landmarks, write_media
from data_pipelines.media.facial import signals
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature
from eval.benchmarks.named import declaration
from eval.benchmarks.named.table import TABLE
from eval.data import pictured, recorded
from eval.metrics import lips
from eval.networks import files as networks
from eval.report import tables
from launch import evaluate as command
from launch.jobs.scoring import named as job
from tests import evaluate_flags

RATE, FPS, SIDE = 22050, 25, 48
IDS = ("ann.hello", "ben")


def film(path, seed: int, *, seconds: float = 1.2, shift: int = 0, dark: int = 1, sound=True,
         level: float = 0.3):
    """A light that moves, and noise that comes and goes."""
    rng, count = np.random.default_rng(seed), round(seconds * FPS)
    frames = np.full((count, SIDE, SIDE, 3), 40, np.uint8)
    for k in range(count):
        at = (k - shift + 7 * seed) % (SIDE - 8)
        frames[k, at:at + 8] = (250, 200, 120)
    time = np.arange(round(seconds * RATE)) / RATE
    audio = level * rng.normal(size=len(time)) * (np.sin(9 * time + seed) > 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_media.write_mp4(path, frames // dark, FPS, np.clip(audio, -1, 1) if sound else None,
                          RATE, crf=10)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder of recordings, the same as somebody's output, and worse output."""
    root = tmp_path_factory.mktemp("films")
    for seed, name in enumerate(("ann/hello.mp4", "ben.mp4")):
        film(root / "recordings" / name, seed)
        film(root / "worse" / name, seed, shift=5, dark=3)
    shutil.copytree(root / "recordings", root / "same")
    (root / "recordings" / "ben.txt").write_text("hello there")
    return root


@pytest.fixture
def root(kept, tmp_path, monkeypatch):
    """A copy of them; no landmarks, and a network that sees the mean colour of a picture."""
    shutil.copytree(kept, tmp_path / "films")
    monkeypatch.setattr(landmarks, "lacking", lambda kind: "pip install it")
    monkeypatch.setattr(networks.Networks, "found", lambda self, names: set(names) <= {"inception"})
    monkeypatch.setattr(networks.Networks, "recipe", lambda self, names: {})
    monkeypatch.setattr(networks.Networks, "__getitem__", lambda self, name: seen)
    return tmp_path / "films"


def seen(pictures):
    means = [np.array([p.mean((0, 1)), np.argmax(p.mean((1, 2))) + np.zeros(3)]).ravel()
             for p in pictures]
    return np.array(means, np.float32)


def run(root, *, benchmark="clips", data="recordings", generated=("same", "worse"), **given):
    """The command's exit code and results."""
    flags = dict(benchmark=benchmark, data=data and str(root / data), out=str(root / "out"),
                 generated=[g if "=" in g else str(root / g) for g in generated])
    with pytest.MonkeyPatch.context() as patch:
        evaluate_flags.flags(patch, **flags | given)
        try:
            code = command.main([]) or 0
        except SystemExit as end:
            code = end.code
    return code, json.loads((root / "out" / "results.json").read_text())


def test_every_declaration_names_metrics_and_corpora_that_there_are():
    for one in TABLE.values():
        one.check()
    text = declaration.listed()
    page = (pathlib.Path(command.__file__).parents[1] / "docs" / "evaluation.md").read_text()
    assert all(f"\n{name}\n" in "\n" + text and f"\n| `{name}` |" in page for name in TABLE)
    with pytest.raises(UserError, match="no benchmark of this name.*puppets or clips.*'hdft'"):
        declaration.named("hdft")


def test_a_paper_stands_beside_ours_with_its_caveats():
    one = TABLE["avflow_50h"]
    entry = {"value": 1.234, "n": 3}
    results = {"summary": {"valid": {"model": {"MCD": entry, "Div_e": entry}}}, "rows": [],
               "targets": {}, "published": one.published,
               "not_measured": {"WER_open": "needs a file"}}
    lines = {line.split()[0]: line.split() for line in tables.table(results).splitlines() if line}
    assert lines["MCD"][2:5] == ["1.23", "0.9*", "1.01*"]
    assert lines["WER_open"][2:4] == ["0.157*", "0.179*"]  # though nothing is measured here
    text = tables.table(results)
    assert "needs a file" in text and text.count("* MCD: neither this package's scale") == 1
    assert "paper: AV-Flow (Chatziagapi et al. 2025)" in text
    voices = {"summary": {"test": {"model": {}}}, "not_measured": {"VoxSim": "needs a file"},
              "published": TABLE["voxceleb2_voices"].published}
    row, *_ = [line for line in tables.table(results | voices).splitlines() if "VoxSim" in line]
    assert row.split()[2:4] == ["2.9*", "4.31*"]  # on the scale of ratings, as ours


def test_the_same_film_is_perfect_and_a_worse_one_is_not(root):
    code, found = run(root)
    of = found["summary"]["valid"]
    assert code == 0 and found["failed"] == [] and found["models"] == ["same", "worse"]
    assert of["same"]["FID"]["value"] == pytest.approx(0, abs=1e-4)
    assert of["worse"]["FID"]["value"] > 100
    assert of["same"]["MCD"]["value"] == 0 and of["same"]["FID"]["n"] == 2
    assert "recordings" in found["recipes"]["FID"]["against"]
    assert found["recipes"]["FID"]["taken"]["fps"] == FPS
    assert "syncnet" in found["not_measured"]["LSE_C"]
    assert found["published"] == {} and found["protocol"]["name"] == "clips"
    text = (root / "out" / "report.html").read_text()
    assert text.count("<video") == 2 * 3
    # a changed file is scored again, others are not
    film(root / "same" / "ben.mp4", 1, dark=2)
    rows = (root / "out" / "results.rows.jsonl").read_text().count('"key"')
    _, again = run(root)
    assert again["summary"]["valid"]["same"]["FID"]["value"] > 1
    assert (root / "out" / "results.rows.jsonl").read_text().count('"key"') == rows + 1


def test_what_is_missing_twice_broken_or_of_no_example_is_listed(root, capsys):
    (root / "same" / "ben.mp4").unlink()
    shutil.copy(root / "worse" / "ben.mp4", root / "worse" / "ben.mov")
    film(root / "third" / "ann.hello.mp4", 0)
    (root / "third" / "ben.mp4").write_bytes((root / "worse" / "ben.mp4").read_bytes()[:900])
    shutil.copy(root / "worse" / "ben.mp4", root / "third" / "carl.mp4")
    code, found = run(root, generated=("same", "worse", f"mine={root / 'third'}"))
    why = {(f["variant"], f["id"]): f["reason"] for f in found["failed"]}
    assert code == PARTIAL and why.keys() == {(v, "ben") for v in ("same", "worse", "mine")}
    assert "missing: no ben in" in why["same", "ben"]
    assert "duplicated: ben.mov, ben.mp4" in why["worse", "ben"]
    assert "truncated" in why["mine", "ben"] or "unreadable" in why["mine", "ben"]
    assert found["unused"]["mine"] == ["carl.mp4"]
    assert "of no example: " in capsys.readouterr().out
    assert found["summary"]["valid"]["mine"]["MCD"]["value"] == 0  # the other is kept
    film(root / "same" / "ben.mp4", 1)
    assert run(root, generated=("same",))[0] == 0  # mended


def test_lengths_that_are_given_must_be_kept_and_silence_is_no_speech(root):
    film(root / "long" / "ann.hello.mp4", 0, seconds=2.0)
    film(root / "long" / "ben.mp4", 1, sound=False)
    code, found = run(root, benchmark="hdtf", generated=("long",), split=["valid"])
    (lost,) = found["failed"]
    assert code == PARTIAL and lost["id"] == "ann.hello"
    assert "wrong duration" in lost["reason"] and "1.2" in lost["reason"]
    assert found["summary"]["valid"]["long"]["FID"]["n"] == 1  # mute: seen all the same
    assert "MCD" not in found["summary"]["valid"]["truth"]  # no metric of this benchmark
    film(root / "long" / "ben.mp4", 1, level=0.0)
    code, found = run(root, generated=("long",))
    assert code == PARTIAL and "silent" in found["failed"][0]["reason"]


def test_a_film_of_one_picture_is_scored_or_its_file_is_named(root, monkeypatch):
    """A picture of 25 a second is one; of a hundred a second it is gone before there is any; a face
    that cannot be followed is that of a file."""
    film(root / "short" / "ann.hello.mp4", 0, seconds=1 / FPS)
    dot, sound = np.zeros((1, SIDE, SIDE, 3), np.uint8), np.full(RATE // 100, 0.1, np.float32)
    write_media.write_mp4(root / "short" / "ben.mp4", dot, 100, sound, RATE)
    code, found = run(root, generated=("short",))
    (lost,) = found["failed"]
    assert code == PARTIAL and lost["id"] == "ben"
    for part in ("too short", "short/ben.mp4", "one picture or more, of 25 a second", "0.010 s"):
        assert part in lost["reason"], part
    assert found["summary"]["valid"]["short"]["FID"]["n"] == 1
    source, = recordings.find(root / "short")[:1]
    with pytest.raises(faces.FaceError, match=r"no face; where: .*short/ann.hello.mp4") as error:
        recorded.OfFiles(source, recorded.Frame(FPS, recorded.FACE, 64)).pictures()
    assert error.value.reason == "no face"


class Reader:
    """The light's place is the mouth; none is seen in dark pictures."""

    kind, recipe = "toy", {"of": "a light"}

    def __init__(self, kind, fps):
        self.fps, self.lip_recipe = fps, lips.RECIPE | {"tau": 0.2, "sweep": [0.2], "fps": fps}

    def __call__(self, pictures):
        rows = np.array([p.mean((1, 2)) for p in pictures])
        if rows.max() < 100:
            raise faces.FaceError("no face")
        at = rows.argmax(1) / SIDE
        return signals.Expression(at, np.ones(len(at)), at, at)


def test_lips_and_smiles_are_read_in_the_recordings_too(root, monkeypatch):
    monkeypatch.setattr(landmarks, "lacking", lambda kind: "")
    monkeypatch.setattr(pictured, "Reader", Reader)
    monkeypatch.setattr(recorded, "followed", lambda frames, fps, size: frames())
    film(root / "late" / "ann.hello.mp4", 0, shift=5)
    film(root / "late" / "ben.mp4", 1, sound=False)
    code, found = run(root, generated=("same", "late", "worse"))
    of = found["summary"]["valid"]
    assert of["same"]["F1_lips"]["value"] == of["truth"]["F1_lips"]["value"] == 1
    assert of["late"]["F1_lips"]["value"] < 0.9 and of["late"]["F1_lips"]["n"] == 2
    assert of["same"]["F1_smiles"]["value"] == 1 > of["late"]["F1_smiles"]["value"]
    assert of["same"]["AV_correlation"] == of["truth"]["AV_correlation"]
    assert found["recipes"]["F1_smiles"]["taken"]["fps"] == FPS
    assert code == PARTIAL and {(f["variant"], f["reason"]) for f in found["failed"]} == {
        ("worse", "no face")}  # though the recordings show one


def test_sounds_alone_are_scored_as_speech(root):
    for name in ("hello.wav", "b.wav"):
        write_media.write_wav(root / name, np.random.default_rng(0).normal(size=RATE) / 9, RATE)
    (root / "wavs").mkdir()
    shutil.move(root / "hello.wav", root / "wavs")
    shutil.move(root / "b.wav", root / "wavs")
    (root / "which.csv").write_text("id,file\nann.hello,hello.wav\nben,b.wav\n")
    code, found = run(root, benchmark="ljspeech", generated=("wavs",),
                      generated_ids=str(root / "which.csv"))
    of = found["summary"]["test"]["wavs"]
    assert code == 0 and of["MCD"]["value"] > 0.5 and of["length_error"]["value"] > 0.1
    assert "FID" not in of and "FID" not in found["not_measured"]


@pytest.mark.parametrize("text, message", [
    ("id,path\nben,b.wav\n", "not a list of files.*id and file.*id, path"),
    ("id,file\nben,b.wav\nben,c.wav\n", "an id twice.*which.csv:3"),
    ("id,file\nbean,b.wav\n", "an id of no example.*bean"),
    ("id,file\nben,\n", "a row without id or file"),
])
def test_bad_lists_of_files(root, text, message):
    (root / "which.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        run(root, generated_ids=str(root / "which.csv"))


@pytest.mark.parametrize("given, message", [
    (dict(generated=("nowhere",)), "no folder of generated files here.*nowhere"),
    (dict(generated=("empty",)), "no media here.*ann.hello.mp4"),
    (dict(generated=("strange",)), "no file belongs to any example.*zoe.wav.*--generated_ids"),
    (dict(generated=("same", "same")), "names of their own"),
    (dict(generated=("truth=same",)), "names of their own.*truth"),
    (dict(benchmark=""), "--data without --benchmark"),
    (dict(data="", generated=()), "--benchmark without --data"),
    (dict(out=""), "--generated without --out"),
    (dict(checkpoint="runs/x"), "--generated and --checkpoint"),
])
def test_a_command_that_cannot_be_done_says_why(root, given, message):
    (root / "empty").mkdir()
    (root / "strange").mkdir()
    write_media.write_wav(root / "strange" / "zoe.wav", np.zeros(RATE), RATE)
    with pytest.raises(UserError, match=message):
        run(root, **given)


def clips(folder, name: str, pictures: int):
    """A dataset of clips that keep pictures."""
    def examples():
        for seed, id in enumerate(("a/1", "a/2")):
            rng = np.random.default_rng(seed)
            yield {"id": id, "speaker": "a", "text": "", "audio": (
                3000 * rng.normal(size=RATE)).astype(np.int16),
                "pictures": rng.integers(0, 255, (pictures, 16, 16, 3)).astype(np.uint8)}

    features = {n: Feature((), "str", n) for n in ("id", "speaker", "text")} | {
        "audio": Feature((None,), "int16", "sound", rate=RATE),
        "pictures": Feature((None, 16, 16, 3), "uint8", "pictures", rate=FPS, apart=True)}
    return store.write_dataset(folder, name=name, description="clips", features=features,
                               splits={"valid": examples()}, progress=False,
                               recipes={"pictures": {"size": 16, "show": "picture"}})


def test_clips_that_keep_pictures_are_compared_at_their_own_size(root):
    data = clips(root / "data", "hdtf", FPS)
    for k, example in enumerate(data.source("valid"), 1):
        large = example["pictures"].repeat(3, 1).repeat(3, 2)
        write_media.write_mp4(root / "made" / f"a.{k}.mp4", large, FPS, crf=4)
    code, found = run(root, benchmark="hdtf", data="data", generated=("made",))
    assert code == 0
    assert found["recipes"]["FID"]["taken"] | {"fps": FPS, "crop": "middle", "size": 16} == (
        found["recipes"]["FID"]["taken"])
    assert found["summary"]["valid"]["made"]["FID"]["value"] < 10
    with pytest.raises(UserError, match="clips of another corpus.*ljspeech.*hdtf"):
        run(root, benchmark="ljspeech", data="data", generated=("made",))


def test_a_split_that_is_not_there(root):
    clips(root / "data", "vico", FPS)
    with pytest.raises(UserError, match="the benchmark's split is not there.*test.*valid"):
        job.evaluate(TABLE["vico_listening"], root / "data", [str(root / "same")],
                     out=root / "out")


def test_arrays_of_listeners_are_scored(root):
    rng = np.random.default_rng(0)
    names = {"face": 5, "rotation": 3, "jaw": 3}
    parts = {p + n: w for p in ("", "partner_") for n, w in names.items()}
    rows = [{"id": f"p0-{k}", "speaker": "p0"} | {
        n: rng.normal(size=(30, w)).astype(np.float32) for n, w in parts.items()} for k in range(3)]
    features = {n: Feature((), "str", n) for n in ("id", "speaker")} | {
        n: Feature((None, w), "float32", n, rate=30.0) for n, w in parts.items()}
    store.write_dataset(root / "data", name="l2l", description="listeners", features=features,
                        splits={"test": rows}, recipes={}, progress=False)
    for folder in ("good", "noisy"):
        (root / folder).mkdir()
        for row in rows:
            whole = np.concatenate([row[n] for n in names], 1)
            np.save(root / folder / f"{row['id']}.npy",
                    whole + (folder == "noisy") * rng.normal(size=whole.shape))
    np.save(root / "noisy" / "p0-1.npy", np.zeros((30, 10)))
    np.save(root / "noisy" / "p0-2.npy", np.array([{}]), allow_pickle=True)
    code, found = run(root, benchmark="l2l_listening", data="data", generated=("good", "noisy"))
    why = {f["id"]: f["reason"] for f in found["failed"]}
    assert code == PARTIAL and why.keys() == {"p0-1", "p0-2"}
    assert "expected: (30, 11); found: (30, 10)" in why["p0-1"] and "unreadable" in why["p0-2"]
    of = found["summary"]["test"]
    assert of["good"]["FD_listen_e"]["value"] == pytest.approx(0, abs=1e-6)
    assert of["noisy"]["FD_listen_e"]["value"] > 0.5 and of["noisy"]["FD_listen_e"]["n"] == 1
    assert of["shuffled"]["RPCC_h"]["value"] > of["good"]["RPCC_h"]["value"]
    assert found["recipes"]["FD_listen_h"]["numbers"] == "face, rotation, jaw"
    with pytest.raises(UserError, match="no file belongs to any example.*p0-0.npy"):
        (root / "none").mkdir()
        np.save(root / "none" / "x.npy", np.zeros(3))
        run(root, benchmark="l2l_listening", data="data", generated=("none",))
