"""launch.generate and the prompt builders behind it: a request becomes conditions, or one line that
says what is wrong."""


import numpy as np
import pytest
import soundfile

from avjax.errors import UserError
from avjax.systems import api
from data_pipelines import decode, prompting
from launch.jobs import generate, samples
from tests.checkpoint import fake_gcs
from tests.launch import never_trained

store_of_buckets = fake_gcs.store
workdir, parts = never_trained.workdir, never_trained.parts
prompt, files, prompt_of = never_trained.prompt, never_trained.files, never_trained.prompt_of
pytestmark = pytest.mark.usefixtures("shared_avatars")
TEXT = "My brother bought a big blue boat."


def lengths(made: prompting.Prompt) -> tuple[int, int]:
    return tuple(int(made.conditions[f"{n}_length"]) for n in ("audio", "motion"))


def test_what_is_given_decides_the_task(prompt, files):
    speech, motion = str(files / "speech.wav"), str(files / "motion.npy")
    for request, task, given in (({"text": TEXT}, "t2av", (0, 0)),
                                 ({"audio": speech}, "a2v", (25, 0)),
                                 ({"audio": speech, "text": TEXT}, "t2av", (0, 0)),  # in that voice
                                 ({"audio": speech, "text": TEXT, "task": "a2v"}, "a2v", (25, 0)),
                                 ({"motion": motion, "text": TEXT}, "v2a", (0, 25)),
                                 ({"example": "train/0"}, "t2av", (0, 0)),
                                 ({"audio": speech, "text": TEXT, "prefix_seconds": 0.5}, "t2av",
                                  (12, 0)),
                                 ({"audio": speech, "text": TEXT, "task": "tts"}, "tts", (0, 0))):
        made = prompt(**request)
        assert (made.task, lengths(made)) == (task, given), request
    assert "transcript" in prompt(audio=speech).remarks[0] and not prompt(audio=speech,
                                                                      text=TEXT).remarks


def test_quieter_speech_drives_alike_and_other_letters_do_not(prompt, files):
    """At -12 dB the same latents and the same voice; far away, a remark; what the model was never
    taught to read is refused."""
    sound, rate = soundfile.read(files / "speech.wav", dtype="float32")
    for name, gain in (("quiet.wav", 0.25), ("far.wav", 1e-3)):
        soundfile.write(files / name, sound * np.float32(gain), rate, subtype="FLOAT")
    loud, quiet, far = (prompt(audio=str(files / f"{n}.wav"), text=TEXT)
                        for n in ("speech", "quiet", "far"))
    for name, wave in loud.conditions.items():
        np.testing.assert_allclose(quiet.conditions[name], wave, atol=1e-4)
        np.testing.assert_allclose(far.conditions[name], wave, atol=1e-2)
    assert not loud.remarks and not quiet.remarks and "dB of full scale" in far.remarks[0]
    with pytest.raises(UserError, match="letters that are not spoken.*--text, character "
                                        "5.*'привет', Cyrillic"):
        prompt(text="Say привет.")
    # Latin-1 from a terminal
    with pytest.raises(UserError, match=r"unreadable text.*UTF-8.*caf\\udce9"):
        prompt(text="caf\udce9")


def test_an_examples_transcript_is_no_prompt_for_a_file_that_drives(prompt, parts, files):
    system, decoder, dataset = parts
    speech, motion = str(files / "speech.wav"), str(files / "motion.npy")
    driven = prompt(task="a2v", example="train/0", audio=speech)
    np.testing.assert_array_equal(driven.conditions["prompt"],
                                  prompt(audio=speech).conditions["prompt"])
    assert "transcript" in driven.remarks[0]
    said = prompt(task="a2v", example="train/0", audio=speech, text=TEXT)
    np.testing.assert_array_equal(said.conditions["prompt"],
                                  prompt(audio=speech, text=TEXT).conditions["prompt"])
    with pytest.raises(UserError, match="nothing to say"):
        prompt(task="v2a", example="train/0", motion=motion)
    # the example's words, the file's voice
    voice = prompt(task="tts", example="train/0", audio=speech)
    np.testing.assert_array_equal(voice.conditions["prompt"],
                                  prompt(example="train/0").conditions["prompt"])


def test_what_was_trained_on_a_placeholder_is_prompted_by_it(parts, prompt, files):
    system, decoder, dataset = parts
    tokens = decoder.recipes["tokens"] | {"placeholder": "speech"}
    mute = decode.Decoder(decoder.recipes | {"tokens": tokens}, decoder.codecs)
    for request in ({"audio": str(files / "speech.wav")}, {"motion": str(files / "motion.npy")}):
        made = prompt_of(system, mute, dataset, **request)
        np.testing.assert_array_equal(made.conditions["prompt"],
                                      prompt(text="speech").conditions["prompt"])
        assert not made.remarks
    with pytest.raises(UserError, match="nothing to say"):
        prompt_of(system, mute, dataset, task="tts", audio=str(files / "speech.wav"))


def test_an_example_gives_what_the_system_itself_would_take_of_it(prompt, parts):
    system, _, dataset = parts
    row = dataset.source("valid")[0]
    for task in system.tasks:
        made = prompt(task=task, example=f"valid/{row['id']}")
        expected, frames = system.conditions(row, task)
        assert (made.frames, made.bounded) == (frames, False), "padded as its evaluation pads it"
        for name, value in expected.items():
            np.testing.assert_array_equal(made.conditions[name], value, err_msg=f"{task}, {name}")
        assert made.name == row["id"] and made.speaker == row["speaker"]
    made = prompt(example="valid/0", prefix_seconds=0.5)
    assert lengths(made) == (12, 12), "whole patches"
    np.testing.assert_array_equal(made.conditions["motion"], row["motion"][:12])
    assert prompt(example="valid/0",
                text=TEXT).conditions["prompt_length"] != prompt(example="valid/0").conditions[
                    "prompt_length"]


def test_who_speaks(prompt, parts, files):
    known = parts[1].codec("speakers")
    names = [str(n) for n in known["names"]]
    for name, one in ((names[1], 1), ("", 0)):
        made = prompt(text=TEXT, speaker=name)
        assert made.speaker == names[one]
        for condition, column in (("speaker", "voice"), ("first_motion", "first_motion")):
            np.testing.assert_array_equal(made.conditions[condition], known[column][one])
        np.testing.assert_array_equal(made.identity, known["identity"][one])
    cloned = prompt(text=TEXT, task="tts", audio=str(files / "speech.wav"))
    assert np.abs(cloned.conditions["speaker"] - known["voice"]).max(
        1).min() > 0.1, "the file's own voice"
    both = prompt(text=TEXT, task="tts", audio=str(files / "speech.wav"), speaker=names[1])
    np.testing.assert_array_equal(both.conditions["speaker"], known["voice"][1])


def test_motion_files_of_either_scale(prompt, files):
    raw, scaled = (prompt(text=TEXT, motion=str(files / n)).conditions["motion"]
                   for n in ("motion.npy", "latents.npz"))
    np.testing.assert_allclose(raw, scaled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inputs, message", [
    ({}, "nothing to say.*--text, --audio"),
    ({"task": "a2x", "text": TEXT}, "unknown task.*t2av or tts or a2v or v2a.*'a2x'"),
    ({"task": "v2a", "text": TEXT}, "v2a is driven by motion"),
    ({"motion": "{}/motion.npy"}, "nothing to say.*the words"),
    ({"text": TEXT, "speaker": "nobody"}, "unknown speaker.*ada or ben.*'nobody'"),
    ({"text": "word" * 60}, "text over the context.*'wordword.*100 tokens.*does not fit"),
    ({"text": "word " * 60, "task": "v2a", "motion": "{}/motion.npy"},
     "text over the context.*100 tokens"),
    ({"text": TEXT, "text_file": "{}/speech.wav"}, "two texts"),
    ({"text_file": "{}/none.txt"}, "unreadable text.*none.txt"),
    ({"text": TEXT, "piece_seconds": 60}, "seconds out of range.*--piece_seconds.*60"),
    ({"text": TEXT, "piece_seconds": 0.01}, "seconds out of range.*--piece_seconds.*0.01 s"),
    ({"text": TEXT, "piece_seconds": 1.3, "context_seconds": 2},
     "--context_seconds.*to 1.30 s.*2 s"),
    ({"task": "a2v", "audio": "{}/speech.wav", "piece_seconds": 1.3},
     "nothing to cut.*--piece_seconds.*found: a2v"),
    ({"example": "train/0", "context_seconds": 0.5}, "nothing to cut.*an example for t2av"),
    ({"text": TEXT, "context_seconds": 0.1}, "seconds out of range.*--context_seconds.*0.1"),
    ({"example": "train/0", "prefix_seconds": 60}, "prefix longer than the clip.*60 s"),
    ({"example": "train/0", "prefix_seconds": 0.1}, "prefix shorter than a patch"),
    ({"text": TEXT, "prefix_seconds": 1}, "prefix of nothing"),
    ({"text": TEXT, "prefix_seconds": float("nan")}, "no number; where: --prefix_seconds.*nan"),
    ({"text": TEXT, "max_seconds": 60}, "bound out of range.*60"),
    ({"text": TEXT, "motion": "{}/narrow.npy"}, "wrong latent width.*40.*39"),
    ({"text": TEXT, "motion": "{}/nan.npy"}, "unusable motion"),
    ({"text": TEXT, "motion": "{}/none.npy"}, "no such"),
    ({"audio": "{}/speech.wav", "motion": "{}/motion.npy"}, "two things to be driven by"),
    ({"text": TEXT, "audio": "{}/speech.wav", "motion": "{}/long.npy", "prefix_seconds": 0.5},
     "audio and motion differ in length.*2 frames.*25 and 50"),
    ({"example": "train/nobody"}, "unknown example.*an id of split train"),
    ({"example": "trial/0"}, "unknown split"),
])
def test_one_line_for_what_cannot_be(prompt, files, inputs, message):
    with pytest.raises(UserError, match=message):
        prompt(**{k: v.format(files) if isinstance(v, str) else v for k, v in inputs.items()})


def test_workdirs_that_lack_something(parts, workdir, tmp_path):
    system, decoder, dataset = parts
    def without(codec):
        return decode.Decoder(decoder.recipes, {k: v for k, v in decoder.codecs.items()
                                                if k != codec})

    def prompt(system, decoder, **request):
        return prompt_of(system, decoder, dataset, **{"text": TEXT} | request)

    with pytest.raises(UserError, match="missing tokenizer"):
        prompt(system, without("tokenizer"))
    with pytest.raises(UserError, match="nobody's voice.*--audio"):
        prompt(system, without("speakers"))
    silent = decode.Decoder(decoder.recipes | {"motion": {"kind": "none"}}, decoder.codecs)
    assert prompt(system, silent).task == "tts"
    with pytest.raises(UserError, match="trained on speech alone"):
        prompt(system, silent, task="t2av")
    other = decode.Decoder(decoder.recipes
                           | {"audio": decoder.recipes["audio"] | {"arrays": "another"}},
                           decoder.codecs)
    with pytest.raises(UserError, match="recipe of 'audio' differs"):
        prompt(system, other, text="", example="train/0")
    small = system.config.as_configdict()
    small.vocab = 10
    with pytest.raises(UserError, match="outside the model's vocabulary"):
        prompt(api.build(small), decoder)
    with pytest.raises(UserError, match="no trained system here"):
        generate.generate(tmp_path, text=TEXT)
    with pytest.raises(UserError, match="this system does not speak.*head_vae"):
        prompting.builder("head_vae")


def test_every_builder_declares_what_it_takes():
    """They are the flags of launch.generate, with a type and a sentence each; what is not declared
    is an error."""
    inputs = prompting.inputs()
    assert prompting.systems() == ("avflow", "avflow.text", "talker", "tavid", "tavid.visual",
                                   "vocoder")
    assert inputs["text"][1] == ("avflow", "avflow.text", "talker")
    assert inputs["script"][1] == ("tavid",)
    assert inputs["max_seconds"][0].kind is float and all(len(f.help) > 15
                                                          for f, _ in inputs.values())
    builder = prompting.builder("avflow")
    with pytest.raises(UserError, match="avflow takes no --motion.*--text"):
        builder.request("avflow", text="x", motion="y")
    with pytest.raises(UserError, match="another type; where: --max_seconds.*float.*'2'"):
        prompting.builder("talker").request("talker", text="x", max_seconds="2")
    assert builder.request("avflow", text="x", speaker="y", motion="").speaker == "y"
    for request, message in (({}, "nothing to say"),
                             ({"text": "a", "audio": "b"}, "two things to say"),
                             ({"text": "a" * 2001}, "text too long")):
        with pytest.raises(UserError, match=message):
            builder.build(builder.request("avflow", **request), None, None)
    assert builder.SETTINGS["steps"] == ("euler_steps",)


def test_a_bound_that_ends_speech_is_told(prompt, parts):
    system, builder = parts[0], prompting.builder("talker")
    made = prompt(text=TEXT, max_seconds=2)
    out = {"audio_length": np.array([made.frames]), "stop": np.full((1, made.frames // 4), -3.0)}
    assert "never fired within 2.1 s" in builder.remarks(made, out, system)[0]
    assert not builder.remarks(made, out | {"stop": -out["stop"]}, system)
    assert not builder.remarks(made, out | {"audio_length": np.array([8])}, system)


LONG = f"{TEXT} We happily paddled home, my brother and I; then we slept. " * 4


def test_text_over_the_context_goes_in_pieces(prompt, parts, tmp_path):
    """Nothing of it is lost, and each piece is made room for as the first is."""
    config, patch = parts[0].config, 4
    (tmp_path / "long.txt").write_text(LONG.replace(";", ";\n"))
    made = prompt(text_file=str(tmp_path / "long.txt"))
    assert made.texts == prompt(text=LONG).texts and " ".join(made.texts) == LONG.strip()
    assert all(text[-1] in ".,;" for text in made.texts) and 3 < len(made.pieces) == len(
        made.texts)
    assert made.bounded and made.frames <= 4 * (config.row_patches - config.delay)
    assert f"{len(made.pieces)} pieces" in made.remarks[-1]
    for k, (piece, text) in enumerate(zip(made.pieces, made.texts, strict=True)):
        assert (piece["audio_length"] == piece["motion_length"] == (4 * patch if k else 0))
        np.testing.assert_array_equal(piece["prompt"], prompt(text=text).conditions["prompt"])
        assert len(piece["prompt"]) + made.frames // patch + 1 < config.row_tokens
        for name in ("speaker", "first_motion"):
            np.testing.assert_array_equal(piece[name], made.conditions[name])
    (tmp_path / "paragraphs.txt").write_text(LONG.replace("slept. ", "slept.\n\n"))
    assert prompt(text_file=str(tmp_path / "paragraphs.txt")).texts == made.texts
    halves = prompt(text=TEXT, piece_seconds=1.3, context_seconds=0.5)
    assert len(halves.texts) == 2 and " ".join(halves.texts) == TEXT
    assert halves.pieces[1]["audio_length"] == 3 * patch
    assert len(prompt(text=TEXT).pieces) == 1 and not prompt(text=TEXT).texts
    assert prompt(text=LONG, task="tts").frames >= made.frames


@pytest.mark.parametrize("sample, message", [
    ({"tasks": ("a2v",)}, "cannot generate the sample_a2v.*a2v is driven by audio.*config.sample"),
    ({"tasks": ("t2av",)}, "sample_t2av.*nothing to say"),
    ({"example": "valid/0", "tasks": ("tts", "sing")}, "sample_sing.*unknown task.*t2av or tts"),
    ({"example": "valid/nobody"}, "the sample .*unknown example.*'valid/nobody'"),
    ({"example": "valdi/0"}, "unknown split"),
    ({"text": "word" * 60}, "text over the context"),
    ({"audio": "none.wav"}, "none.wav"),
])
def test_samples_are_checked_before_training(workdir, sample, message):
    config = generate.load_config(workdir)
    config.sample = {"text": "", "audio": "", "example": "", "tasks": ()} | sample
    with pytest.raises(UserError, match=message):
        samples.check(config)


def test_samples_that_can_be_generated_pass(workdir):
    config = generate.load_config(workdir)
    for sample in ({}, {"text": TEXT},
                   {"text": TEXT, "example": "valid/0", "tasks": ("t2av", "tts", "a2v", "v2a")}):
        config.sample = {"text": "", "audio": "", "example": "", "tasks": ()} | sample
        assert samples.check(config) is None
