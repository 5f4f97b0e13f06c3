"""Words of any vocabulary by Whisper (Radford et al. 2022, arXiv:2212.04356): windows of 30 s,
greedily, with its own tokens and normaliser.

A file is a folder as openai publishes for transformers: model.safetensors, config.json,
tokenizer.json, generation_config.json. Sound beyond a window is cut where it is quietest in the
window's last third [ours]: published decoders go on from the last timestamp instead, which greedy
decoding without timestamps has none of.
Suffixes: B batch, N samples, L tokens, V vocabulary.
"""

import functools
import json
import pathlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jax.sharding import Mesh

from avjax.encoders import whisper
from avjax.encoders.published.whisper import import_params as import_encoder
from avjax.errors import UserError
from avjax.sharding import rows
from avjax.sharding.mesh import replicated
from avjax.signal import whisper_mel
from avjax.weights.reader import read_state_dict
from eval.networks.speech import whisper_decoder as decoder
from eval.networks.speech.kept import Kept
from eval.networks.speech.sound import at_16khz, is_silent
from eval.networks.speech.wav2vec2_ctc import PACKAGE, normaliser

START, END, PLAIN = "<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>"
LANGUAGE, TASK = "<|en|>", "<|transcribe|>"
PROMPT = (START, LANGUAGE, TASK, PLAIN)
TOKENIZER, SIZES, CHOICES = "tokenizer.json", "config.json", "generation_config.json"
TOGETHER = 8  # windows, on an accelerator
QUIETEST = 1 / 3  # of a window, its end, in which longer sound is cut
FRAME = 400  # samples of which the loudness counts: 25 ms
RECIPE = {"decoding": "greedy, without timestamps, temperature 0 only: no second try",
          "prompt": "".join(PROMPT), "barred": "as its generation_config.json says",
          "tokens": "224 a window at most, half of the positions",
          "longer": "cut at the quietest 25 ms of the last third of a window"}


class Tokens:
    """A published tokenizer, and which tokens are never chosen.

    Args:
      folder: with tokenizer.json and generation_config.json.
      size: of the vocabulary that the network has.

    Raises UserError: a file is missing or unreadable, or the tokens are another network's.
    """

    def __init__(self, folder: pathlib.Path, size: int):
        path = folder / TOKENIZER
        content = _text(path)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content)
        except Exception as error:  # the library raises plain Exception
            raise UserError("unreadable tokenizer", where=str(path), expected=HOW[TOKENIZER],
                            found=str(error)[:200], hint="fetch the file again") from error
        ids = {name: self._tokenizer.token_to_id(name) for name in (*PROMPT, END)}
        if lacking := [name for name, token in ids.items() if token is None]:
            raise UserError("the tokenizer is not Whisper's", where=str(path),
                            expected=" ".join(lacking), found="no such tokens",
                            hint="fetch the one beside the weights; those for English only will "
                                 "not do")
        if (most := self._tokenizer.get_vocab_size() - 1) >= size or max(ids.values()) >= size:
            raise UserError("tokens that the network does not have", where=str(path),
                            expected=f"below {size}", found=str(max(most, *ids.values())),
                            hint="fetch tokenizer and weights of one model")
        self.prompt, self.end = np.int32([ids[name] for name in PROMPT]), ids[END]
        choices = _read(folder / CHOICES)
        self.barred_V, self.barred_first_V = (
            _marked(choices.get(name) or (), size, folder / CHOICES, name)
            for name in ("suppress_tokens", "begin_suppress_tokens"))

    def text(self, tokens_L: np.ndarray) -> str:
        """What tokens up to the first `end` spell."""
        ends = np.flatnonzero(tokens_L == self.end)
        return self._tokenizer.decode(tokens_L[:ends[0] if len(ends) else None].tolist(),
                                      skip_special_tokens=True)


HOW = {TOKENIZER: "a tokenizer.json of the tokenizers library", SIZES: "a JSON object",
       CHOICES: "a JSON object"}


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"Whisper needs {path.name} beside its weights", where=str(path),
                        expected=HOW[path.name], found=type(error).__name__,
                        hint="fetch it from where the weights are") from error


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except ValueError as error:
        raise UserError("unreadable settings of Whisper", where=str(path), expected=HOW[path.name],
                        found=str(error), hint="fetch the file again") from error
    if not isinstance(found, dict):
        raise UserError("unreadable settings of Whisper", where=str(path), expected=HOW[path.name],
                        found=type(found).__name__, hint="fetch the file again")
    return found


def _marked(ids, size: int, path: pathlib.Path, name: str) -> np.ndarray:
    """(V,) bool."""
    if not isinstance(ids, list | tuple) or not all(
            isinstance(i, int) and 0 <= i < size for i in ids):
        raise UserError(f"{name} of another network", where=str(path),
                        expected=f"a list of whole numbers from 0 to {size - 1}",
                        found=str(ids)[:80], hint="fetch it from where the weights are")
    out_V = np.zeros(size, bool)
    out_V[list(ids)] = True
    return out_V


def cut(wave_N: np.ndarray, window: int) -> list[np.ndarray]:
    """(N,) -> pieces of at most `window` samples that follow one another, cut where it is
    quietest."""
    pieces = []
    while len(wave_N) > window:
        first = int(window * (1 - QUIETEST))
        frames = wave_N[first:first + (window - first) // FRAME * FRAME].reshape(-1, FRAME)
        at = first + int(np.argmin(np.square(frames).mean(1))) * FRAME + FRAME // 2
        pieces.append(wave_N[:at])
        wave_N = wave_N[at:]
    return [*pieces, wave_N]


class Words:
    """Recogniser and normaliser.

    Args:
      path: of model.safetensors, or its index.
      mesh: windows are split over its data axes; None = `rows.devices`.

    Raises UserError: of another network, or a file beside it is missing.
    """

    def __init__(self, path, mesh: Mesh | None = None):
        path, self._mesh = pathlib.Path(path), mesh or rows.devices()
        settings, state = _read(path.parent / SIZES), read_state_dict(path)
        params = {"encoder": import_encoder(state, str(path)),
                  "decoder": decoder.import_params(state, str(path))}
        known = {side: _heads(settings, side, path.parent / SIZES)
                 for side in ("encoder", "decoder")}
        self._encoder = whisper.config_of(params["encoder"], known["encoder"])
        positions, width = params["decoder"]["positions"].shape
        heads = known["decoder"] or width // whisper.HEAD_WIDTH
        if not heads or width % heads or width != params["encoder"]["positions"].shape[1]:
            raise UserError(decoder.WHAT, where=str(path), expected="heads that divide the "
                            "encoder's width", found=f"{heads} heads, width {width}",
                            hint=decoder.HINT)
        self._decoder = decoder.DecoderConfig(heads, positions)
        self._tokens = Tokens(path.parent, len(params["decoder"]["tokens"]))
        self._params = jax.device_put(params, replicated(self._mesh))
        self._kept, self.normalised = Kept(self._made), normaliser()

    def __call__(self, wave_N: np.ndarray, rate: float) -> str:
        """Float samples at `rate` -> what is heard, normalised; "" of silence."""
        return self.normalised(self.spelled([wave_N], rate)[0])

    def ahead(self, waves: Sequence[np.ndarray], rate: float) -> None:
        """Hears several together, to know them when they are asked for."""
        self.spelled(waves, rate)

    def spelled(self, waves: Sequence[np.ndarray], rate: float) -> list[str]:
        """What is heard in each of several, as the tokens spell it; their windows go together."""
        return self._kept([at_16khz(wave_N, rate) for wave_N in waves])

    def _made(self, heard: list[np.ndarray]) -> list[str]:
        pieces = [[] if is_silent(x_N) else cut(x_N, self._encoder.window) for x_N in heard]
        function = functools.partial(
            _tokens, self._params, self._encoder, self._decoder, self._tokens.end,
            self._tokens.prompt, self._tokens.barred_V, self._tokens.barred_first_V)
        made = iter(rows.through(
            function, [(x_N,) for some in pieces for x_N in some], self._mesh,
            padded=lambda _: self._encoder.window, most=lambda _: rows.at_once(TOGETHER)))
        return [" ".join(self._tokens.text(next(made)).strip() for _ in some) for some in pieces]


def _heads(settings: dict, side: str, path: pathlib.Path) -> int | None:
    found = settings.get(f"{side}_attention_heads")
    if found is not None and (not isinstance(found, int) or found < 1):
        raise UserError(f"{side}_attention_heads of Whisper", where=str(path),
                        expected="a whole number above 0", found=repr(found),
                        hint="fetch it from where the weights are")
    return found


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _tokens(params, encoder, config, end, prompt_L, barred_V, barred_first_V, wave_BN, length_B):
    del length_B  # silence behind the sound is heard
    with jax.default_matmul_precision("float32"):
        mel_BSM = whisper_mel.log_mel(wave_BN, encoder.bands)
        encoded_BTD = whisper.encode(params["encoder"], encoder, mel_BSM)["out"]
        return decoder.greedy(params["decoder"], config, encoded_BTD, jnp.asarray(prompt_L),
                              barred_V, barred_first_V, end,
                              min(config.positions // 2, config.positions - len(prompt_L)))


def recipe() -> dict:
    """How words are heard and normalised."""
    return RECIPE | {"normaliser": "Whisper's English", PACKAGE: version(PACKAGE)}


load = Words
