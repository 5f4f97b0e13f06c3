"""Text -> phonemes as ids of the language model's prompt: the stand-in for models that have no
text of their own to learn spelling from.

The front-end is that of text-to-tokens networks (avjax/encoders/text): numbers and abbreviations
spelled out, espeak-ng's IPA with stress and punctuation, a symbol an id in the table's order. Two
ids behind the table stand around them. There is nothing to fit, so the recipe is all there is.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from avjax.encoders.text import front_end, symbols
from avjax.encoders.text.phonemes import LANGUAGE
from avjax.errors import UserError

KIND = "phonemes"


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


def spelled(ids: np.ndarray) -> str:
    """The phonemes of a prompt."""
    return symbols.spelled(ids[1:-1])
