"""Clips with transcripts -> symbols and tokens."""

import numpy as np
import pytest

from avjax.encoders.text import front_end, symbols
from avjax.errors import UserError
from avjax.signal import resample
from data_pipelines import extract
from data_pipelines.store import columns
from data_pipelines.store import dataset as store


def of(clips, out, **options):
    return extract.extract(clips.dir, out, features="text_tokens", progress=False, **options)


def by_id(dataset, split="train"):
    return {row["id"]: row for row in dataset.source(split)}


def test_symbols_are_of_the_text_and_tokens_of_the_sound(puppets_dataset, tmp_path, capsys):
    made = extract.extract(puppets_dataset.dir, tmp_path / "out", features="text_tokens")
    everything = []
    for clip in puppets_dataset.source("train"):
        row = by_id(made)[clip["id"]]
        np.testing.assert_array_equal(row["symbols"], front_end.read(clip["text"]).ids)
        assert len(row["tokens"]) == len(clip["audio"]) // 256
        np.testing.assert_array_equal(row["tokens"], resample.to_features(
            clip["phones"], puppets_dataset.features["phones"].rate, len(row["tokens"])))
        assert row["phonemes"] == clip["phonemes"]
        everything.append(row["tokens"].ravel())
    found = made.codec("statistics")
    everything = np.concatenate(everything)
    assert found["mean"] == pytest.approx(everything.mean(), abs=1e-5)
    assert found["std"] == pytest.approx(everything.std(), rel=1e-5)
    assert (f"--config.system.mean={found['mean']:.4f} --config.system.std={found['std']:.4f}"
            in capsys.readouterr().out)
    assert made.recipes["symbols"]["table"] == 178 and made.recipes["tokens"]["kind"] == "phones"


def test_tokens_like_those_of_a_model(puppets_dataset, tmp_path):
    """The other clips' units are the model's own, and its recipe is theirs."""
    model = extract.extract(puppets_dataset.dir, tmp_path / "model", features="avflow",
                            tokens="units", units=5, progress=False)
    made = of(puppets_dataset, tmp_path / "like", like=str(model.dir))
    assert made.recipes["tokens"] == model.recipes["tokens"]
    for id, row in by_id(model, "valid").items():
        np.testing.assert_array_equal(by_id(made, "valid")[id]["tokens"], row["tokens"])
    own = of(puppets_dataset, tmp_path / "own", tokens="units", units=5, seed=7)
    assert own.recipes["tokens"] != model.recipes["tokens"]
    with pytest.raises(UserError, match="features without AV-Flow's tokens.*found: None"):
        of(puppets_dataset, tmp_path / "none", like=str(puppets_dataset.dir))


def said(folder, *texts, seconds=2.0):
    """A dataset of a buzz that is said to be these texts."""
    sound = (8000 * np.sign(np.sin(np.arange(int(22050 * seconds)) / 30))).astype(np.int16)
    features = columns.of_clip() | columns.of_speaker(audio=22050)
    rows = [{"id": f"c{k}", "text": text, "mended": "[]", "speaker": "x", "words": "[]",
             "identity": columns.identity_of("x"), "audio": sound} for k, text in enumerate(texts)]
    return store.write_dataset(folder, name="said", description="", features=features, recipes={
        "audio": {"sample_rate": 22050}}, splits={"train": rows}, progress=False)


def test_another_language(tmp_path):
    made = of(said(tmp_path / "clips", "un bon vin"), tmp_path / "out", tokens="units", units=2,
              language="fr-fr")
    [row] = made.source("train")
    assert symbols.spelled(row["symbols"]) == "œ̃ bˈɔ̃ vˈɛ̃"
    assert made.recipes["symbols"]["language"] == "fr-fr"
    assert made.recipes["symbols"]["table"] == len(symbols.SYMBOLS)


def test_texts_that_cannot_be_read_are_named_or_left_out(tmp_path):
    clips = said(tmp_path / "clips", "fine words", "", "你好", "much too long a text " * 20)
    for message in ("cannot extract clip 'c1': empty text",):
        with pytest.raises(UserError, match=message):
            of(clips, tmp_path / "strict", tokens="units", units=2)
    made = of(clips, tmp_path / "out", tokens="units", units=2, max_bad=0.8)
    assert made.splits == {"train": 1}
    reasons = (tmp_path / "out.quarantine.jsonl").read_text()
    for reason in ("empty text", "Latin letters", "more symbols than frames"):
        assert reason in reasons
    with pytest.raises(UserError, match="a language that espeak-ng does not speak"):
        of(clips, tmp_path / "other", tokens="units", language="klingon")
    with pytest.raises(UserError, match="clips lack 'phones'"):
        of(clips, tmp_path / "phones")
