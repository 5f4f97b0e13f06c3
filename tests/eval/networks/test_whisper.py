"""Whisper as a recogniser: its decoder beside what transformers' made of the same weights, its
tokens, and its metrics."""

import json
import types

import jax
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file

from avjax.encoders import whisper as encoder
from avjax.encoders.published.whisper import import_params as import_encoder
from avjax.errors import UserError
from avjax.sharding import rows
from avjax.sharding.mesh import make_mesh
from eval.metrics.judged import whisper as metrics
from eval.networks.speech import whisper
from eval.networks.speech import whisper_decoder as decoder
from tests.encoders.test_whisper import TO_OPENAI
from tests.golden_files import config, relative_error, some, under


@pytest.fixture(scope="module")
def recorded():
    return some("whisper_decoder")


@pytest.fixture(scope="module")
def waves(recorded):
    """As they were heard: the silence behind them is left out."""
    return [wave_N[:n].astype(np.float32) / 32768
            for wave_N, n in zip(recorded["wav_int16"], recorded["lengths"], strict=True)]


def tokenizer(special) -> dict:
    """A tokenizer.json: a token a byte, then the special ones."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(letters)}, []))
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.add_special_tokens(list(special))
    return json.loads(bpe.to_str())


def write(record, folder, **changed):
    """A folder as openai publishes for transformers; `changed`: content of a file, without its
    ending, None to leave it out."""
    c = config(record)
    folder.mkdir(parents=True)
    files = {"tokenizer": tokenizer(c["special"]), "config": {
        f"{side}_attention_heads": c[f"{side}_attention_heads"] for side in ("encoder", "decoder")},
        "generation_config": {"suppress_tokens": record["barred"].tolist(),
                              "begin_suppress_tokens": record["barred_first"].tolist()}}
    for name, content in (files | changed).items():
        if content is not None:
            (folder / f"{name}.json").write_text(
                content if isinstance(content, str) else json.dumps(content))
    state = {n: np.ascontiguousarray(x) for n, x in under(record, "sd/").items()}
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


def test_logits_are_those_of_the_published_decoder(recorded):
    params = decoder.import_params(under(recorded, "sd/"))
    sizes = decoder.DecoderConfig(config(recorded)["decoder_attention_heads"])
    with jax.default_matmul_precision("float32"):
        found = jax.jit(decoder.logits, static_argnums=1)(params, sizes, recorded["encoded"],
                                                          recorded["given"])
    assert relative_error(found, recorded["logits"]) < 1e-4


def test_what_is_heard_is_what_is_published_whatever_goes_together(recorded, waves, tmp_path,
                                                                   monkeypatch):
    """From sound to letters, through a folder's files; several, one, and cut."""
    monkeypatch.setattr(whisper, "normaliser", lambda: str.lower)
    words = whisper.load(write(recorded, tmp_path / "whisper-tiny"))
    spell, given = words._tokens.text, len(words._tokens.prompt)
    expected = [spell(tokens_L[given:]).strip() for tokens_L in recorded["generated"]]
    most = config(recorded)["max_new_tokens"]
    assert words._decoder.positions // 2 == most  # as many as were recorded
    silent = np.zeros(999, np.float32)
    assert words.spelled([waves[0], silent, waves[1]], 16000) == [expected[0], "", expected[1]]
    assert len(set(expected)) == 2 and words(waves[1], 16000) == expected[1].lower()
    monkeypatch.setattr(rows, "at_once", lambda rows: rows)
    split = whisper.Words(tmp_path / "whisper-tiny" / "model.safetensors",
                          make_mesh({"data": 2}, jax.devices()[:2]))
    assert split.spelled(waves[::-1], 16000) == expected[::-1]
    monkeypatch.setattr(whisper, "cut", lambda wave_N, window: [waves[1], wave_N])
    assert words._made([waves[0]]) == [f"{expected[1]} {expected[0]}".strip()]


def test_openais_names_are_the_same_weights(recorded):
    state, openai = under(recorded, "sd/"), {}
    for name, value in state.items():
        theirs = name.removeprefix("model.").replace("encoder_attn_layer_norm", "cross_attn_ln")
        theirs = theirs.replace("encoder_attn.", "cross_attn.")
        side, _, theirs = theirs.partition(".")
        for old, new in (*TO_OPENAI, ("embed_tokens", "token_embedding")):
            theirs = theirs.replace(old, new)
        for old, new in (("cross_attn.q_proj", "cross_attn.query"),
                         ("cross_attn.k_proj", "cross_attn.key"),
                         ("cross_attn.v_proj", "cross_attn.value"),
                         ("cross_attn.out_proj", "cross_attn.out")):
            theirs = theirs.replace(old, new)
        if theirs.startswith("layer_norm"):
            theirs = ("ln_post" if side == "encoder" else "ln") + theirs.removeprefix("layer_norm")
        openai[f"{side}.{theirs}"] = value
    for read in (decoder.import_params, import_encoder):
        jax.tree.map(np.testing.assert_array_equal, read(openai), read(state))
    assert encoder.config_of(import_encoder(openai), 4).positions == 50


def test_another_network_is_told_by_every_array(recorded):
    state = dict(under(recorded, "sd/"))
    del state["model.decoder.layers.1.encoder_attn.k_proj.weight"]
    state["model.decoder.layers.0.fc1.weight"] = np.zeros((48, 25))
    state["model.decoder.project_in.weight"] = np.zeros(3)
    with pytest.raises(UserError) as error:
        decoder.import_params(state, "some.safetensors")
    for part in ("not the weights of a Whisper decoder", "some.safetensors", "(48, 25)",
                 "missing: blocks.1.cross_attn.key.weight",
                 "left over: model.decoder.project_in.weight"):
        assert part in str(error.value), part


@pytest.mark.parametrize(("changed", "told"), [
    ({"tokenizer": None}, "needs tokenizer.json beside"),
    ({"tokenizer": "{"}, "unreadable tokenizer"),
    ({"tokenizer": tokenizer(["<|endoftext|>", "<|startoftranscript|>"])},
     "not Whisper's.*<.en.>.*English only"),
    ({"config": "[]"}, "unreadable settings.*config.json.*list"),
    ({"config": {"decoder_attention_heads": "two"}}, "decoder_attention_heads.*'two'"),
    ({"config": {}}, "attention heads is unknown.*config.json"),
    ({"generation_config": {"suppress_tokens": [7, 9999]}}, "suppress_tokens.*9999"),
    ({"generation_config": None}, "needs generation_config.json"),
])
def test_what_lies_beside_the_weights_is_checked(recorded, tmp_path, changed, told):
    with pytest.raises(UserError, match=told):
        whisper.load(write(recorded, tmp_path / "whisper", **changed))


def test_more_tokens_than_the_network_has_are_refused(recorded, tmp_path):
    special = [*config(recorded)["special"], "<|30.00|>"]
    with pytest.raises(UserError, match="tokens that the network does not have.*below 264.*264"):
        whisper.load(write(recorded, tmp_path / "whisper", tokenizer=tokenizer(special)))


def test_longer_sound_is_cut_where_it_is_quietest():
    wave_N = np.random.default_rng(0).normal(size=40000)
    wave_N[13000:13900] = 0
    pieces = whisper.cut(wave_N, 16000)
    assert 13000 < len(pieces[0]) < 13900 and max(map(len, pieces)) <= 16000
    np.testing.assert_array_equal(np.concatenate(pieces), wave_N)
    assert len(whisper.cut(wave_N[:16000], 16000)) == 1


def test_a_case_is_counted_against_its_transcript():
    class Words:
        normalised = staticmethod(str.lower)

        def __call__(self, wave_N, rate):
            return "one too three"

    benchmark = types.SimpleNamespace(networks={"whisper": Words()}, sample_rate=16000,
                                      labels=lambda split: (["a", "a"], ["One two three", ""]))
    case = types.SimpleNamespace(benchmark=benchmark, split="valid", index=0,
                                 signals=types.SimpleNamespace(waveform=np.ones(9)))
    row = metrics._score(case)
    assert row["WER_whisper"] == {"substitutions": 1, "deletions": 0, "insertions": 0, "hits": 2}
    assert row["heard_whisper"] == "one too three"
    case.index = 1
    assert metrics._score(case)["WER_whisper"] is None
