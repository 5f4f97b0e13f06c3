"""Prompts: Qwen3's chat template id by id, and a stand-in that can say anything and is always the
same."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

from avjax.encoders.text import symbols
from avjax.errors import UserError
from data_pipelines.features.talker.phonemes import Phonemes
from data_pipelines.features.talker.tokenizer import Tokenizer

TEXTS = ["the cat sat on the mat", "the dog ran to the cat", "a mat, the mat!"] * 3
# A byte-level BPE with two merges, h+e and he+y, and Qwen3's added tokens behind the bytes.
BYTES = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
# Qwen3's: words, single digits, punctuation with the line breaks behind it, line breaks.
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
         r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def tiny_qwen(special=SPECIAL) -> dict:
    vocabulary = {b: i for i, b in enumerate(BYTES)} | {"he": 256, "hey": 257}
    added = [{"id": 258 + i, "content": t, "special": "think" not in t, "single_word": False,
              "lstrip": False, "rstrip": False, "normalized": False} for i, t in enumerate(special)]
    pieces = [{"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated",
               "invert": False},
              {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
               "use_regex": False}]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": pieces}, "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                        "use_regex": False},
            "model": {"type": "BPE", "dropout": None, "unk_token": None,
                      "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False,
                      "byte_fallback": False, "vocab": vocabulary,
                      "merges": ["h e", "he y"]}}


@pytest.fixture
def qwen(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tiny_qwen()))
    return path


def ids_of(text):
    """A token a byte: what the tiny BPE makes of text without "he"."""
    return [BYTES.index({" ": "Ġ", "\n": "Ċ"}.get(c, c)) for c in text]


def test_chat_template_id_by_id(qwen):
    start, end, think, end_think = 259, 260, 261, 262
    expected = [start, *ids_of("user\n"), 257, *ids_of(" you"), end, *ids_of("\n"), start,
                *ids_of("assistant\n"), think,
                *ids_of("\n\n"), end_think, *ids_of("\n\n")]
    prompt = Tokenizer.from_file(qwen).prompt("  hey you\n")
    assert prompt.dtype == np.int32 and prompt.tolist() == expected
    whole = "<|im_start|>user\nhey you<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    # as one rendered string
    assert tokenizers.Tokenizer.from_file(str(qwen)).encode(whole).ids == expected
    # the folder will do
    assert Tokenizer.from_file(qwen.parent).recipe == Tokenizer.from_file(qwen).recipe
    assert Tokenizer.from_file(qwen).recipe["kind"] == "qwen3-chat" and Tokenizer.from_file(
        qwen).vocabulary == 263


def test_a_user_cannot_type_control_tokens(qwen):
    for tokenizer in (Tokenizer.from_file(qwen), Tokenizer.fit(TEXTS)):
        plain, sly = tokenizer.prompt("a"), tokenizer.prompt("a" + "".join(SPECIAL))
        # said letter by letter
        assert tokenizer.decode(tokenizer.encode("".join(SPECIAL))) == "".join(SPECIAL)
        for token in SPECIAL[1:] if tokenizer.kind == "qwen3-chat" else SPECIAL[1:3]:
            control = tokenizer._tokenizer.token_to_id(token)
            assert (sly == control).sum() == (plain == control).sum() > 0


def test_stand_in_says_any_bytes():
    tokenizer = Tokenizer.fit(TEXTS, vocabulary=300)
    assert 258 < tokenizer.vocabulary <= 300
    for text in ("the cat", "日本語 ünï 😀", "\x00\x01 tab\there",
                 "".join(map(chr, range(33, 256)))):
        ids = tokenizer.prompt(text)
        assert tokenizer.decode(ids) == text and 0 <= ids.min() and ids.max() < tokenizer.vocabulary
    assert len(tokenizer.prompt("the cat")) < len("the cat")  # it has learnt something


def test_stand_in_is_the_same_in_every_process():
    code = "import sys; from data_pipelines.features.talker.tokenizer import Tokenizer; " \
           f"print(Tokenizer.fit({TEXTS!r}, 280).recipe['tokenizer'])"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           cwd=".").stdout.strip()
    assert other == Tokenizer.fit(TEXTS, 280).recipe["tokenizer"]
    assert other != Tokenizer.fit([*TEXTS, "zebra zebra zebra zebra"], 280).recipe["tokenizer"]


def test_it_travels_as_a_codec(qwen):
    for tokenizer in (Tokenizer.from_file(qwen), Tokenizer.fit(TEXTS)):
        again = Tokenizer.from_codec(tokenizer.recipe, tokenizer.arrays())
        assert again.recipe == tokenizer.recipe
        np.testing.assert_array_equal(again.prompt("hey, cat"), tokenizer.prompt("hey, cat"))


def test_what_cannot_be_a_tokenizer(tmp_path, qwen):
    with pytest.raises(UserError, match="missing tokenizer.*nowhere.*hint"):
        Tokenizer.from_file(tmp_path / "nowhere")
    with pytest.raises(UserError, match="missing tokenizer.*codecs/tokenizer.npz"):
        Tokenizer.from_codec({"kind": "byte-bpe"}, None)
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(UserError, match="unreadable tokenizer.*broken.json"):
        Tokenizer.from_file(tmp_path / "broken.json")
    (tmp_path / "other.json").write_text(json.dumps(tiny_qwen(SPECIAL[:3])))
    with pytest.raises(UserError, match="lacks the chat template's tokens.*<think>"):
        Tokenizer.from_file(tmp_path / "other.json")
    for text in ("", " \n"):
        with pytest.raises(UserError, match="empty text"):
            Tokenizer.from_file(qwen).prompt(text)


def test_phonemes_are_what_is_said():
    tokenizer = Phonemes()
    prompt = tokenizer.prompt(" Dr. Low\u2019s 2 cats, \u201cmeow\u201d! ")
    assert symbols.spelled(prompt[1:-1]) == "dˈɑːktɚ lˈoʊz tˈuː kˈæts, \"mɪˈaʊ\"!"
    assert prompt.dtype == np.int32 and prompt.max() == prompt[-1] == prompt[0] + 1
    assert tokenizer.vocabulary == prompt[-1] + 1 == 180
    np.testing.assert_array_equal(tokenizer.prompt("The cat"), tokenizer.prompt("the  cat"))
    assert tokenizer.prompt("", allow_empty=True).tolist() == [178, 179]
    german = Phonemes("de")
    assert not np.array_equal(german.prompt("ich"), tokenizer.prompt("ich"))
    for one in (tokenizer, german):
        stored = json.loads(json.dumps(one.recipe | {"placeholder": "speech"}))
        assert Phonemes.from_recipe(stored) == one
    for bad, message in (("", "empty text"), ("привет", "letters"), ("?!", "nothing to say")):
        with pytest.raises(UserError, match=message):
            tokenizer.prompt(bad)
    with pytest.raises(UserError, match="another front-end.*version"):
        Phonemes.from_recipe(tokenizer.recipe | {"version": 0})
    with pytest.raises(UserError, match="does not speak"):
        Phonemes("xx").prompt("hello")
