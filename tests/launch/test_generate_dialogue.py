"""A script and portraits become a dialogue's files: pieces that continue one another, equal
durations, clear errors."""

import json
import pathlib
from types import SimpleNamespace

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from avjax.checkpoint import checkpoints
from avjax.encoders import portrait
from avjax.errors import UserError
from avjax.inference.generator import Generator
from avjax.systems import api
from avjax.systems.tavid import streaming
from data_pipelines import decode, media, prompting
from data_pipelines.features.tavid import prompt as tavid
from data_pipelines.features.tavid.tokenizer import DialogueTokenizer
from data_pipelines.media import write_media
from data_pipelines.puppets import identities, render
from launch import generate as command
from launch.jobs import generate, samples, video
from launch.jobs.requests import files
from tests.launch.talkers import LATENTS, Codecs, Talkers

SCRIPT = """Anna: I went home in the evening [Ben: yeah] and slept.
Ben+: But I thought that we would play the piano.
Anna: The blue boat is by the river today.
Ben+: My brother opened the old window.
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir as far as it is read here, with a script and portraits."""
    folder = tmp_path_factory.mktemp("tavid")
    (folder / "talk.txt").write_text(SCRIPT)
    for name, person in zip("abc", identities.identities(3, 0).values(), strict=False):
        cv2.imwrite(str(folder / f"{name}.png"), render.portrait(person, 256)[:, :, ::-1])
    both = np.concatenate([cv2.imread(str(folder / f"{n}.png")) for n in "ab"], axis=1)
    cv2.imwrite(str(folder / "both.png"), both)
    cv2.imwrite(str(folder / "nobody.png"), np.full((256, 256, 3), 220, np.uint8))
    system = {"name": "tavid", "text": {"row_tokens": 120, "row_frames": 3000, "temperature": 1.0},
              "visual": {"steps": 2, "guidance": 2.0, "guidance_motion": 2.0}}
    (folder / "config.json").write_text(json.dumps({"name": "x", "data": {"dir": ""},
                                                    "system": system}))
    return folder


@pytest.fixture(scope="module")
def decoder():
    people = [render.portrait(p, 64, 1.2) for p in identities.identities(6, 0).values()]
    tokens, faces = DialogueTokenizer.fit([SCRIPT]), portrait.fit(np.stack(people), 16)
    return Codecs({"tokens": tokens.recipe, "units": {},
                   "portraits": {"kind": "puppet", "size": 64, "zoom": 1.2}, "faces": faces.recipe,
                   "latents": {}}, {"tokenizer": tokens.arrays(), "faces": faces.arrays(),
                                    "vae": {}, "speakers": {
                       "names": np.array(["ada", "ben", "cleo", "dan"]),
                       "identity": np.stack(list(identities.identities(6, 0).values())[:4]),
                       "portraits": np.stack(people[:4])}})


@pytest.fixture
def house(monkeypatch, decoder):
    """launch.generate with the System and codecs of this file."""
    monkeypatch.setattr(api, "build", Talkers)
    monkeypatch.setattr(decode.Decoder, "from_workdir", lambda *a, **k: decoder)
    monkeypatch.setattr(checkpoints, "load_params", lambda *a, **k: jnp.float32(0.0))
    monkeypatch.setattr(tavid.pictures, "from_recipe", lambda recipe, arrays: SimpleNamespace(
        encode=lambda x: np.zeros((len(x), *LATENTS), np.float32)))


@pytest.fixture
def prompt(house, workdir, decoder):
    def make(**request):
        request = {"script": "talk.txt", "portraits": "a.png,b.png"} | request
        for name in ("script", "portraits"):
            request[name] = ",".join(str(workdir / f) for f in request[name].split(",") if f)
        config = generate.load_config(workdir)
        return generate.prompt_of(config, Talkers(config.system), decoder, **request)
    return make


def test_a_long_script_is_made_in_pieces_that_go_on(house, workdir, tmp_path, decoder, capsys):
    files = ",".join(str(workdir / f) for f in ("a.png", "b.png"))
    made = generate.generate(workdir, script=str(workdir / "talk.txt"), portraits=files,
                             out=tmp_path / "talk", save_latents=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        f"talk.{n}" for n in ("json", "npz", "wav", "mp4", "Anna.wav", "Anna.mp4", "Ben.wav",
                              "Ben.mp4")), "nothing is left over"
    said = capsys.readouterr().err
    assert "4 turns are made in 4 pieces" in said and "100%" not in said and "s made in" in said
    streams = np.load(made["npz"])
    frames = len(streams["latents"])
    counting = streams["latents"][:, 0, 0, 0, 0]
    np.testing.assert_array_equal(np.diff(counting), 1, "a piece begins after the last frame of "
                                                        "the one before")
    assert len(streams["units"]) == 2 * frames and len(streams["mel"]) == 441 * 2 * frames // 256
    sound = {name: soundfile.read(made[f"{name}wav"]) for name in ("", "Anna.", "Ben.")}
    assert {(len(x), rate) for x, rate in sound.values()} == {(frames * 882, 22050)}
    np.testing.assert_allclose(sound[""][0], sound["Anna."][0] + sound["Ben."][0], atol=1e-4)
    assert 0.97 < np.abs(sound[""][0]).max() < 0.9901, "the mix of two full channels does not clip"
    for name, width in (("", 64), ("Anna.", 32), ("Ben.", 32)):
        video = media.probe(made[f"{name}mp4"]).video
        assert abs(video.duration - frames / 25) < 1e-3
        assert next(media.iterate_video(made[f"{name}mp4"]))[2].shape == (32, width, 3)


def test_pieces_hold_what_the_text_model_has_seen(prompt, decoder, workdir):
    made = prompt()
    assert made.speakers == ("Anna", "Ben") and made.task == "dialogue" and len(made.pieces) == 4
    tokens = DialogueTokenizer.from_codec(decoder.recipes["tokens"], decoder.codecs["tokenizer"])
    for piece in made.pieces:
        assert int(piece["tokens_length"]) == len(piece["tokens"]) <= 120
        assert piece["room"].shape == made.pieces[0]["room"].shape == (made.frames,)
    text = [tokens.decode(p["tokens"]) for p in made.pieces]
    assert text[2] == ("[spkb] but i thought that we would play the piano. [spkchange] "
                       "[spka] the blue boat is by the river today."), "one piece and that before"
    said = [tokens.decode(p["tokens"][:p["said_tokens"]]) for p in made.pieces]
    assert said[0] == "" and said[3] == "[spka] the blue boat is by the river today."
    faces = portrait.from_recipe(decoder.recipes["faces"], decoder.codecs["faces"])
    for k in range(2):
        np.testing.assert_allclose(made.conditions["faces"][k],
                                   faces(made.conditions["portraits"][k]), rtol=1e-6)
    assert np.abs(made.conditions["faces"][0] - made.conditions["faces"][1]).max() > 0.5
    turned = prompt(speakers="Ben, Anna")
    assert turned.speakers == ("Ben", "Anna")
    np.testing.assert_array_equal(turned.conditions["faces"], made.conditions["faces"])
    assert turned.conditions["tokens"].tolist() != made.conditions["tokens"].tolist()
    (workdir / "long.txt").write_text("Anna: " + "The boat is blue. " * 30 + "\nBen: Oh, 5 boats?")
    long = prompt(script="long.txt")
    assert len(long.pieces) == 11 and "lacks ',', '5', '?'" in long.remarks[0]
    spoken = [tokens.decode(p["tokens"][p["said_tokens"]:]) for p in long.pieces]
    assert " ".join(spoken).count("the boat is blue.") == 30, "what is new is said once"
    (workdir / "sentence.txt").write_text("Anna: Hello my old friend.\nBen: " + "and so on " * 10
                                          + "\nAnna: Oh yes I see that now.")
    large = prompt(script="sentence.txt").pieces
    assert [int(p["said_tokens"]) for p in large] == [0, 0, 0] and len(large[1]["tokens"]) > 80
    config = generate.load_config(workdir)
    config.system.text.row_frames = 240  # 4.8 s: every turn is a piece, of more than .4 of it
    script = {"script": str(workdir / "talk.txt"), "portraits": "ada,ben"}
    short = generate.prompt_of(config, Talkers(config.system), decoder, **script).pieces
    assert [int(p["said_tokens"]) > 0 for p in short] == [False, True, True, True]


def test_three_talk_in_pieces(house, workdir, tmp_path, decoder, monkeypatch):
    """Files of each, and of all side by side."""
    class Trio(Talkers):
        speakers = 3

    tokens = DialogueTokenizer.fit([SCRIPT], speakers=3)
    three = Codecs(decoder.recipes | {"tokens": tokens.recipe},
                   decoder.codecs | {"tokenizer": tokens.arrays()})
    monkeypatch.setattr(api, "build", Trio)
    monkeypatch.setattr(decode.Decoder, "from_workdir", lambda *a, **k: three)
    (workdir / "trio.txt").write_text(SCRIPT + "Cleo: The old boat, again [Ben: yeah].\n")
    made = generate.generate(workdir, script=str(workdir / "trio.txt"), portraits="cleo,ada,dan",
                             out=tmp_path / "talk", save_latents=True)
    streams = np.load(made["npz"])
    assert streams["latents"].shape[1] == streams["units"].shape[1] == 3
    np.testing.assert_array_equal(np.diff(streams["latents"][:, 0, 0, 0, 0]), 1)
    assert {"Anna.mp4", "Ben.mp4", "Cleo.mp4", "Cleo.wav"} <= made.keys()
    assert next(media.iterate_video(made["mp4"]))[2].shape == (32, 96, 3)
    faces = portrait.from_recipe(decoder.recipes["faces"], decoder.codecs["faces"])
    heard = streams["mel"][0, :, 0] if "mel" in streams else None
    if heard is not None:  # whose sound tells whose face it was made of
        shown = decoder.codecs["speakers"]["portraits"][[2, 0, 3]]
        np.testing.assert_allclose(heard, faces(shown)[:, 0], rtol=1e-4)


@pytest.mark.parametrize("inputs, message", [
    ({"portraits": "a.png"}, "another number of portraits than of speakers.*2, one of each in this "
                             "order: Anna, Ben.*1: "),
    ({"portraits": "a.png,b.png,c.png"}, "another number of portraits.*3: "),
    ({"portraits": "a.png,both.png"}, "several faces.*both.png.*found: 2"),
    ({"portraits": "nobody.png,b.png"}, "without a face.*nobody.png.*--face=unchecked"),
    ({"portraits": "a.png,none.png"}, "no such portrait.*none.png"),
    ({"portraits": "a.png,talk.txt"}, "unreadable portrait.*talk.txt"),
    ({"portraits": ""}, "another number of portraits.*found: 0"),
    ({"speakers": "Anna,Bob"}, "unknown speaker.*'Ben'"),
    ({"script": "one.txt"}, "a script with one speaker"),
    ({"script": "three.txt", "portraits": "a.png,b.png,c.png"},
     "another number of speakers than the model has.*expected: 2"),
    ({"script": "endless.txt"}, "a sentence over the context.*expected"),
    ({"script": ""}, "nothing to say.*--script=FILE"),
    ({"script": "letters.txt"}, "letters that are not spoken.*letters.txt, 'да', character "
                                "1.*Latin letters.*Cyrillic"),
    ({"task": "sing"}, "unknown task.*dialogue or avatar"),
    ({"task": "avatar"}, "avatar is driven by units"),
    ({"script": "", "example": "x", "speakers": "Anna,Ben"}, "speakers of no script"),
    ({"face": "maybe"}, "no such way to look"),
    ({"text": "Hello."}, "tavid takes no --text"),
])
def test_one_line_for_what_cannot_be(prompt, workdir, inputs, message, monkeypatch):
    monkeypatch.setattr(prompting, "read_example", lambda *a: {})
    (workdir / "one.txt").write_text("Anna: Hello.\nAnna: Anyone?\n")
    (workdir / "letters.txt").write_text("Anna: Hello.\nBen: Say [Anna: да] it.\n",
                                         encoding="utf-16")
    (workdir / "three.txt").write_text("Anna: Hello.\nBen: Hi.\nEve: Hm.\n")
    (workdir / "endless.txt").write_text("Anna: Hello.\nBen: " + "and so on " * 30)
    with pytest.raises(UserError, match=message):
        prompt(**inputs)


def test_portraits_may_be_unchecked_or_those_of_training(house, prompt, workdir, decoder):
    made = prompt(portraits="nobody.png,both.png", face="unchecked")
    assert (made.conditions["portraits"][0] == 220).all()
    config = generate.load_config(workdir)
    made = generate.prompt_of(config, Talkers(config.system), decoder,
                              script=str(workdir / "talk.txt"), portraits="dan, cleo")
    np.testing.assert_array_equal(made.conditions["portraits"],
                                  decoder.codecs["speakers"]["portraits"][[3, 2]])


def test_faces_of_motion_are_drawn_as_the_puppets_of_the_portraits(workdir, tmp_path, decoder):
    class Movers(Talkers):
        makes = {"dialogue": ("units", "mel", "motion"), "avatar": ("mel",)}

        def __init__(self, config):  # looks at no reference, so that there need be no VAE
            super().__init__(config)
            del self.conditions_spec["reference"]

    class Drawn(Codecs):
        def pictures(self, streams, identity):
            shown = np.full((32, 32, 3), 100 * (identity == whose[0]).all(), np.uint8)
            return len(streams["latents"]), iter([shown] * len(streams["latents"]))

    puppets = Drawn(decoder.recipes | {"motion": {"face": {"kind": "puppet"}, "face_dim": 16}},
                    decoder.codecs)
    whose = decoder.codecs["speakers"]["identity"][[3, 2]]
    config, script = generate.load_config(workdir), str(workdir / "talk.txt")
    system = Movers(config.system)
    made = generate.prompt_of(config, system, puppets, script=script, portraits="dan,cleo")
    np.testing.assert_array_equal(made.identity, whose)
    for one, portraits in ((decoder, "dan,cleo"), (puppets, f"{workdir / 'a.png'},dan")):
        with pytest.raises(UserError, match="a face that cannot be drawn.*ada, ben, cleo.*faces="):
            generate.prompt_of(config, system, one, script=script, portraits=portraits)
    streams = {"mel": np.zeros((80, 80)), "latents": np.zeros((20, *LATENTS))}
    files = video.write_dialogue(tmp_path / "talk", [streams] * 2, ("a", "b"), puppets, whose)
    film = next(media.iterate_video(files["mp4"]))[2]
    assert film[:, :32].mean() > 90 and film[:, 32:].mean() < 10


def test_settings_of_parts(workdir):
    settings = generate.load_config(workdir).system
    generate.change(settings, tavid.PromptBuilder.SETTINGS,
                    {"steps": 5, "guidance": 1.5, "temperature": None})
    assert (settings.visual.steps, settings.visual.guidance,
            settings.visual.guidance_motion) == (5, 1.5, 1.5)
    assert settings.text.temperature == 1.0


def test_an_example_gives_text_and_portraits_or_units(prompt, monkeypatch):
    rng = np.random.default_rng(0)
    row = {"id": "x", "text": SCRIPT, "speakers": '["Anna", "Ben"]',
           "units": rng.integers(0, 9, (300, 2)), "tokens": np.zeros(3, int),
           "faces": rng.standard_normal((2, 16)), "reference": rng.standard_normal((2, *LATENTS)),
           "portraits": rng.integers(0, 255, (2, 64, 64, 3))}
    monkeypatch.setattr(prompting, "read_example", lambda *a: row)
    spoken = prompt(script="", portraits="", example="valid/0")
    np.testing.assert_array_equal(spoken.conditions["tokens"], prompt().conditions["tokens"])
    np.testing.assert_allclose(spoken.conditions["faces"], row["faces"], rtol=1e-6)
    shown = prompt(script="", portraits="", example="valid/0", task="avatar")
    assert shown.conditions["units_length"] == 300 and len(shown.pieces) == 1
    np.testing.assert_array_equal(shown.conditions["units"], row["units"])
    np.testing.assert_array_equal(shown.given["units"], row["units"])
    others = prompt(script="", portraits="a.png,b.png", example="valid/0", task="avatar")
    np.testing.assert_array_equal(others.conditions["faces"], prompt().conditions["faces"])
    assert spoken.name == shown.name == "x", "the noise of its evaluation"
    progress = Generator(Talkers(None), seed=0).stream(jnp.float32(0), shown.pieces, "x", "avatar",
                                                       frames=[300])
    assert [chunk.seconds for chunk in progress] == [3, 6]
    assert progress.result["latents"].shape[1] == progress.result["latents_length"] == 150


def test_sound_does_not_run_away_from_the_pictures():
    frames = streaming.mel_frames(202)
    mel = np.arange(frames, dtype=np.float32)[None, :, None, None] * np.ones((1, 1, 2, 80))
    clocks = [streaming.mel_frames(202 * k) for k in range(51)]
    made = [streaming.fitted(mel, b - a) for a, b in zip(clocks, clocks[1:], strict=False)]
    assert sum(x.shape[1] for x in made) == streaming.mel_frames(202 * 50) > 50 * frames
    longer = next(x for x in made if x.shape[1] == frames + 1)
    np.testing.assert_array_equal(longer[:, -1], mel[:, -1], "the last frame is held")


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


def test_files_of_a_request_come_together(tmp_path, monkeypatch, decoder):
    """Killed while one is drawn, or between two that are moved to their places: what is there is no
    request that was made, neither the new one nor one that was made before."""
    streams = {"mel": np.zeros((86, 2, 80)), "latents": np.zeros((25, 2, *LATENTS))}
    prompt = prompting.Prompt("avatar", (), 0, "", speakers=("a", "b"))
    out, request = tmp_path / "talk", {"text": "older"}
    older = {f"talk.{n}": n for n in ("wav", "mp4", "a.wav", "a.mp4", "b.wav", "b.mp4")}
    for name, text in older.items():
        (tmp_path / name).write_text(text)
    files.keep(tmp_path, "talk", request, {}, files=sorted(older))
    made = {"request": request, "settings": {}}
    assert files.done_before(tmp_path, "talk") == made

    def killed(*args, **kwargs):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_media.Mp4Writer, "add", killed)
        patch.setattr(video.shutil, "rmtree", lambda *a, **k: None)  # nobody is left to do so
        with pytest.raises(Killed):
            video.write(out, streams, decoder, prompt)
    assert files.done_before(tmp_path, "talk") == made
    assert {n: (tmp_path / n).read_text() for n in older} == older
    assert (tmp_path / ".talk.tmp").is_dir()

    moved, replace = [], pathlib.Path.replace

    def some(self, target):
        if self.parent.name == ".talk.tmp":
            moved.append(target)
            if len(moved) > 2:
                raise Killed
        return replace(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pathlib.Path, "replace", some)
        with pytest.raises(Killed):
            video.write(out, streams, decoder, prompt, latents=True)
    assert files.done_before(tmp_path, "talk") is None and len(moved) == 3
    paths = video.write(out, streams, decoder, prompt, latents=True)
    assert set(paths) == {"npz", "wav", "mp4", "a.wav", "a.mp4", "b.wav", "b.mp4"}
    assert all(path.parent == tmp_path and path.is_file() for path in paths.values())
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths.values())


def test_files_are_whole_or_absent(tmp_path, monkeypatch, decoder):
    streams = {"mel": np.zeros((86, 2, 80)), "latents": np.zeros((25, 2, *LATENTS))}
    (tmp_path / "talk.wav").write_text("older")
    monkeypatch.setattr(write_media.Mp4Writer, "add", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        video.write_dialogue(tmp_path / "talk", decoder.speakers(streams), ("a", "b"), decoder)
    assert [p.name for p in tmp_path.iterdir()] == ["talk.wav"]
    assert (tmp_path / "talk.wav").read_text() == "older"
    made = video.write_dialogue(tmp_path / "new",
                         [{"mel": s["mel"], "latents": s["latents"][:0]}
                          for s in decoder.speakers(streams)],
                         ("a", "b"), decoder)
    assert sorted(made) == ["a.wav", "b.wav", "wav"], "speech alone"
    with pytest.raises(UserError, match="nothing was generated"):
        video.write_dialogue(tmp_path / "none", [{"mel": ()}], ("a",), decoder)
    assert tavid.file_names(("Anna B.", "../x", "a/b", "a b")) == ("Anna_B", "x", "a_b3", "a_b4")


def test_a_config_names_its_workdir(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.workdir_of("configs/talker_quickstart.py") == "runs/talker_quickstart"
    assert "workdir: runs/talker_quickstart" in capsys.readouterr().err
    with pytest.raises(UserError, match="no trained system "
                                        "here.*runs/talker_quickstart.*"
                                        "--workdir=runs/talker_quickstart"):
        generate.generate("runs/talker_quickstart", text="Hi.")
    with pytest.raises(UserError, match="no workdir given"):
        command.workdir_of("")


def test_samples_after_training(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(samples.jobs, "generate", lambda workdir, out, **request: calls.append(
        (out.name, request)))
    samples.generate({"text": "Hello.", "audio": ""}, tmp_path, patience=0)
    assert calls == [("sample", {"text": "Hello."})]
    calls.clear()
    wanted = {"text": "Hello.", "audio": "", "example": "valid/0", "tasks": ("tts", "v2a")}
    assert samples.generate(wanted, tmp_path, patience=0) == 3
    assert calls == [("sample", {"text": "Hello."}),
                     ("sample_tts", {"task": "tts", "example": "valid/0"}),
                     ("sample_v2a", {"task": "v2a", "example": "valid/0"})]
    assert samples.generate({"text": "", "audio": ""}, tmp_path, patience=0) == 0
