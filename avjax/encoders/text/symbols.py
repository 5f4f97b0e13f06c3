"""The symbols that a text-to-tokens network reads: the published table of 178, and ours after it.

The table is Matcha-TTS' and AV-Flow's: their released weights hold an embedding a place, so the
order is a fact of theirs. It has a stray apostrophe twice; the later place counts. English needs
nothing else. Sounds that espeak-ng writes for other languages (nasal vowels, tones, dental and
raised consonants) follow from place 178 on; a model whose table ends at 178 refuses them.
"""

import unicodedata

import numpy as np

from avjax.errors import UserError

PAD = "_"  # place 0; also the blank between symbols
MARKS = ";:,.!?¡¿—…\"«»“”"  # punctuation that is kept
_LETTERS = "".join(chr(first + k) for first in (65, 97) for k in range(26))
_IPA = ("ɑɐɒæɓʙβɔɕçɗɖðʤəɘɚɛɜɝɞɟʄɡɠɢʛɦɧħɥʜɨɪʝɭɬɫɮʟɱɯɰŋɳɲɴøɵɸθœɶʘɹɺɾɻʀʁɽʂʃʈʧʉʊʋⱱʌɣɤʍχʎʏʑʐʒʔʡʕʢ"
        "ǀǁǂǃˈˌːˑʼʴʰʱʲʷˠˤ˞↓↑→↗↘'\u0329'ᵻ")
RELEASED = (PAD, *MARKS, " ", *_LETTERS, *_IPA)
# tilde, dental, raised, lowered, voiceless (above, below), retracted, syllabic above, tie; tones
_OURS = "\u0303\u032a\u031d\u031e\u030a\u0325\u0320\u030d\u0361" + "0123456789" + "˥˦˧˨˩"
SYMBOLS = (*RELEASED, *_OURS)
_ID = {symbol: i for i, symbol in enumerate(SYMBOLS)}


def ids_of(phonemes: str, *, count: int = len(SYMBOLS)) -> np.ndarray:
    """(2 n + 1,) int32: the places of n symbols with a blank (0) before, between and after them, as
    the released network reads them.

    Args:
      phonemes: IPA with punctuation.
      count: symbols of the model's table.

    Raises:
      UserError: a sound that the table lacks.
    """
    places = [_ID.get(c, len(SYMBOLS)) for c in phonemes]
    if lacking := sorted({c for c, place in zip(phonemes, places, strict=True) if place >= count}):
        named = ", ".join(f"{c} ({unicodedata.name(c, hex(ord(c)))})" for c in lacking[:3])
        known = all(c in _ID for c in lacking)
        raise UserError("a sound that the table of symbols lacks", where="text",
                        expected=f"one of the first {count} symbols", found=named,
                        hint=f"train with config.system.symbols = {len(SYMBOLS)}" if known else
                        "write the word otherwise")
    out = np.zeros(2 * len(places) + 1, np.int32)
    out[1::2] = places
    return out


def spelled(ids: np.ndarray) -> str:
    """The symbols of ids, without blanks."""
    return "".join(SYMBOLS[i] for i in np.asarray(ids) if i)
