"""Text -> token ids of the language model's prompt, by the `tokenizers` library and a local
tokenizer.json.

Two kinds. "qwen3-chat" is any file that has Qwen3's special tokens; the prompt is what its chat
template puts before the assistant's words with thinking switched off,
    <|im_start|>user\\n{text}<|im_end|>\\n<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n
"byte-bpe" is the stand-in: a small byte-level BPE trained on the corpus' own training texts, with
    the short prompt <|im_start|>{text}<|im_end|>
The file's bytes travel with datasets and checkpoints as the codec "tokenizer", so nothing has to be
looked up again.
"""

import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np
import tokenizers

from avjax.encoders.plain_text import scripts_of
from avjax.errors import UserError

CODEC = "tokenizer"
STAND_IN_VOCABULARY = 600
_START, _END, _THINK, _END_THINK = "<|im_start|>", "<|im_end|>", "<think>", "</think>"
_CHAT = (_START, "user\n{text}", _END, "\n", _START, "assistant\n", _THINK, "\n\n", _END_THINK,
         "\n\n")
_SHORT = (_START, "{text}", _END)
TEMPLATES = {"qwen3-chat": _CHAT, "byte-bpe": _SHORT}


class Tokenizer:
    """A tokenizer.json and the template around the text.

    Args:
      content: the file's bytes.
      kind: "qwen3-chat" or "byte-bpe".
      where: what to call the file in errors.
    """

    def __init__(self, content: bytes, kind: str, where: str = "tokenizer.json"):
        self.content, self.kind = bytes(content), kind
        try:
            # What a user types must never become a control token, e.g. an "<|im_end|>" within the
            # text. The library leaves text alone for special tokens only, and Qwen3's <think> and
            # its like are added tokens that are not.
            settings = json.loads(self.content)
            settings["added_tokens"] = [token | {"special": True}
                                        for token in settings.get("added_tokens", [])]
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(settings))
        except Exception as error:  # the library raises plain Exception
            raise UserError("unreadable tokenizer", where=where,
                            expected="a tokenizer.json of the tokenizers library",
                            found=str(error)[:200], hint="download the file again") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        missing = [t for t in TEMPLATES[kind] if t.startswith("<")
                   and self._tokenizer.token_to_id(t) is None]
        if missing:
            raise UserError("tokenizer lacks the chat template's tokens", where=where,
                            expected=", ".join(missing), found=f"{self.vocabulary} other tokens",
                            hint="use the tokenizer.json of Qwen3")

    @classmethod
    def from_file(cls, path) -> "Tokenizer":
        """A Qwen3 tokenizer.json, or the folder that holds it. UserError when it is missing."""
        path = pathlib.Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise UserError("missing tokenizer", where=str(file), expected="Qwen3's tokenizer.json",
                            found="no file", hint="copy it from the model's release, or leave "
                                                  "--tokenizer out for the stand-in")
        return cls(file.read_bytes(), "qwen3-chat", str(file))

    @classmethod
    def from_codec(cls, recipe: Mapping | None,
                   arrays: Mapping[str, np.ndarray] | None) -> "Tokenizer":
        """The tokenizer of a dataset or workdir, from recipe "tokens" and codec "tokenizer".
        UserError when missing."""
        if arrays is None or "json" not in arrays or (recipe or {}).get("kind") not in TEMPLATES:
            raise UserError("missing tokenizer", where=f"codecs/{CODEC}.npz",
                            expected="an array named json, and recipe "
                            "tokens of kind " + " or ".join(TEMPLATES),
                            found=str((recipe or {}).get("kind")),
                            hint="extract the features again")
        return cls(arrays["json"].tobytes(), recipe["kind"], f"codecs/{CODEC}.npz")

    @classmethod
    def fit(cls, texts: Iterable[str], vocabulary: int = STAND_IN_VOCABULARY) -> "Tokenizer":
        """The stand-in, trained on `texts`: every byte is a token, so any text can be said.
        Deterministic."""
        bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
        bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = tokenizers.decoders.ByteLevel()
        bpe.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=[_START, _END], show_progress=False,
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())))
        return cls(bpe.to_str().encode(), "byte-bpe")

    @property
    def ids(self) -> dict[str, int]:
        """{token: id}, added tokens included."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    @property
    def vocabulary(self) -> int:
        """Number of ids, added tokens included: the least that the model's embedding must have."""
        return max(self.ids.values()) + 1

    @property
    def recipe(self) -> dict:
        """What tells one tokenisation from another."""
        return {"kind": self.kind, "vocab": self.vocabulary,
                "tokenizer": hashlib.sha256(self.content).hexdigest(),
                "template": "".join(TEMPLATES[self.kind]), "text": "stripped"}

    @functools.cached_property
    def scripts(self) -> frozenset[str] | None:
        """Scripts of the stand-in's training texts, by the letters that its tokens spell, and
        Latin; None: any, as Qwen3."""
        if self.kind == "qwen3-chat":
            return None
        return frozenset({"LATIN"}.union(*(scripts_of(self.decode([i]).replace("\ufffd", ""))
                                           for i in range(self.vocabulary))))

    def arrays(self) -> dict[str, np.ndarray]:
        """The codec to keep with a dataset."""
        return {"json": np.frombuffer(self.content, np.uint8)}

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without template."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids) -> str:
        """Text of ids, control tokens left out."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def prompt(self, text: str, *, allow_empty: bool = False) -> np.ndarray:
        """(n,) int32 ids of everything before the patch slots. Raises UserError when there is
        nothing to say."""
        text = text.strip()
        if not text and not allow_empty:
            raise UserError("empty text", where="text", expected="something to say",
                            found=repr(text), hint="give every clip its transcript, or extract "
                                                   "with --placeholder")
        ids = []
        for part in TEMPLATES[self.kind]:
            ids += self.encode(part.replace("{text}",
                                            text)) if "{text}" in part else self._fixed[part]
        return np.asarray(ids, np.int32)

    @functools.cached_property
    def _fixed(self) -> dict[str, list[int]]:
        """Ids of the template's parts that do not depend on the text."""
        return {part: [self._tokenizer.token_to_id(part)] if part.startswith("<")
                else self.encode(part)
                for part in TEMPLATES[self.kind] if "{text}" not in part}
