"""Text -> phonemes as ids of the language model's prompt, for training too short to learn how words
are pronounced.

The front-end is that of text-to-tokens networks (avjax/encoders/text): numbers and abbreviations
spelled out, espeak-ng's IPA with stress and punctuation, a symbol an id in the table's order. Two
ids behind the table stand around them. There is nothing to fit, so the recipe is all there is.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import numpy as np

from avjax.encoders.text import front_end
from avjax.encoders.text.phonemes import LANGUAGE
from avjax.errors import UserError
from data_pipelines.declared import Option
from data_pipelines.features.talker.tokenizer import Tokenizer

KIND = "phonemes"
STAND_INS = ("byte-bpe", KIND)  # of a tokenizer
Tokens = Annotated[str, Option("what the stand-in makes of text: byte-bpe, trained on the clips' "
                               "own, or phonemes, as espeak-ng says it", choices=STAND_INS)]
Language = Annotated[str, Option("of the phonemes, as espeak-ng calls it")]


@dataclasses.dataclass(frozen=True)
class Phonemes:
    """Has the members of `tokenizer.Tokenizer` that extraction and prompts use.

    Attributes:
      language: of espeak-ng. UserError where it speaks no such language.
    """

    language: str = LANGUAGE

    kind = KIND
    # of the letters that it can read: `prompt` looks at them itself
    scripts = None

    @classmethod
    def from_recipe(cls, recipe: Mapping) -> "Phonemes":
        """Of a dataset or workdir. UserError: read by another front-end than this version has."""
        found = cls(str(recipe.get("language", LANGUAGE)))
        if {k: recipe.get(k) for k in found.recipe} != found.recipe:
            raise UserError("text of another front-end", where="recipes.json, tokens",
                            expected=str(found.recipe), found=str(dict(recipe)),
                            hint="extract the features again")
        return found

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return front_end.recipe(self.language)["table"] + 2

    @property
    def recipe(self) -> dict:
        """What tells one tokenisation from another."""
        return {**front_end.recipe(self.language), "kind": KIND, "blanks": "none",
                "vocab": self.vocabulary, "template": "start, phonemes, end"}

    def arrays(self) -> dict[str, np.ndarray]:
        """None."""
        return {}

    def prompt(self, text: str, *, allow_empty: bool = False) -> np.ndarray:
        """(n + 2,) int32 ids of a text of n symbols. UserError: nothing to say, letters that are
        not the language's."""
        start = self.vocabulary - 2
        ids = np.zeros(0, np.int32)
        if text.strip() or not allow_empty:
            table = front_end.recipe(self.language)["table"]
            ids = front_end.read(text, self.language, count=table).ids[1::2]
        return np.concatenate([[start], ids, [start + 1]]).astype(np.int32)


def chosen(tokenizer: str | None, tokens: str, language: str) -> Tokenizer | Phonemes | None:
    """Of extraction's options; None where byte-bpe is to be fitted. UserError: two tokenizers, no
    such file."""
    if tokenizer and tokens == KIND:
        raise UserError("two tokenizers", where="--tokenizer, --tokens", expected="one of them",
                        found="both", hint="a published model reads its own, --tokenizer")
    if tokens == KIND:
        return Phonemes(language)
    return Tokenizer.from_file(tokenizer) if tokenizer else None
