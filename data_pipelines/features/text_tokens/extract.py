"""Clips with transcripts -> what a text-to-tokens network learns from (avjax/systems/avflow/text).

    symbols (P,)    places of the text's phonemes in the table of symbols, blanks between them
    tokens (T, C)   what AV-Flow hears, by the same code and options as its own features have it
                    (data_pipelines/features/avflow/tokens.py)
    text, speaker, words, phonemes      as the clips have them

--like=FEATURES takes the kind, options and fitted arrays of AV-Flow's features, so that a model of
those can be driven by text: of LJSpeech, say, whose clips show no face. The tokens' mean and
deviation are fitted here, printed and kept in the codec `statistics`: system.mean and system.std of
who trains on them.
"""

from typing import Annotated

import numpy as np

from avjax.encoders.text import front_end, phonemes
from avjax.errors import UserError
from avjax.signal import mel
from data_pipelines.declared import MaxBad, Option
from data_pipelines.features.avflow import extract as avflow
from data_pipelines.features.avflow import tokens as tokens_of
from data_pipelines.features.common import clips as common
from data_pipelines.features.common import ctc
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import FAMILY, Feature, recipe_hash

STATISTICS = "statistics"  # codec: of all numbers of all tokens
_FIT_CLIPS = 500  # of the split that they are fitted on, drawn at random
_CARRIED = ("speaker", "text", "words", "phonemes")


def extract(
    clips_dir, out_dir, *,
    tokens: Annotated[str, Option("what is heard, as features", tokens_of.KINDS)] = "phones",
    weights: Annotated[str | None, Option("wav2vec 2.0 base 960h with its CTC head (torchaudio's, "
                                          "fairseq's or transformers' file), for "
                                          "--tokens=wav2vec2", flag="ctc")] = None,
    units: Annotated[int, Option("number of k-means units, for --tokens=units",
                                 least=2)] = tokens_of.UNITS,
    like: Annotated[str | None, Option("features of AV-Flow: make tokens as theirs are")] = None,
    language: Annotated[str, Option("of the text, as espeak-ng calls it")] = phonemes.LANGUAGE,
    seed: Annotated[int, Option("of what is fitted")] = 0,
    mode: Annotated[str, Option("how features get to one clock: by their timestamps, or "
                                "interpolated as the published code does",
                                avflow.resample.MODES, flag="resample")] = "timestamps",
    loudness: Annotated[str, Option("of the sound: brought to one level of speech, or as recorded, "
                                    "which is what the published code reads",
                                    tuple(avflow.LOUDNESS))] = "speech",
    max_bad: MaxBad = 0.0, fit_split: str = "train", name: str = "text_tokens",
    progress: bool = True,
) -> store.Dataset:
    """Writes the feature dataset of a clip dataset. A killed job resumes when it is started again.

    Args:
      clips_dir: a dataset made by launch.prepare, with sound and transcripts.
      out_dir: the folder to make.
      fit_split: everything fitted here sees this split only.

    Raises:
      UserError: unknown choice, clips without sound or transcripts, missing weights, text in
        letters that its language does not have, a text longer than its sound.
    """
    store.refuse_existing(out_dir)
    clips = common.open_clips(clips_dir, out_dir)
    common.require(clips, ("audio", "text"), "prepare clips with transcripts")
    common.full_band(clips)
    common.at_mel_rate(clips)
    known = store.open_dataset(like) if like else None
    recipe = front_end.recipe(language)
    level = avflow.LOUDNESS[loudness]
    if known:
        tokens, mode, level = _options(known)
    with common.job(out_dir, clips, "text_tokens", tokens=tokens, weights=weights, units=units,
                    language=language, seed=seed, mode=mode, level_of_sound=level,
                    fit_split=fit_split, **({"like": known.content} if known else {})) as job:
        if known and tokens == "units":
            tokenizer = tokens_of.units_of(known.codec("tokens")["centroids"], level)
        else:
            tokenizer = tokens_of.make(job, tokens, clips, weights, units, seed, mode, max_bad,
                                       fit_split, level)
        made = {**tokenizer.recipe, **avflow.clock(mode)}
        if known and recipe_hash(made) != recipe_hash(known.recipes["tokens"]):
            differing = [k for k in made if made[k] != known.recipes["tokens"].get(k)]
            raise UserError("tokens of another kind", where=f"--like={like}: {differing[0]}",
                            expected=str(known.recipes["tokens"].get(differing[0])),
                            found=str(made[differing[0]]), hint="use the same front-end or weights")
        common.require(clips, tokenizer.columns, "use --tokens=units or --tokens=wav2vec2")
        return _write(job, clips, tokenizer, made, recipe, level, max_bad, fit_split, seed, name,
                      progress)


def _options(known) -> tuple[str, str, dict | None]:
    """(kind, resampling, level) of the tokens of other features."""
    recipe = known.recipes.get("tokens", {})
    kinds = {"phones": "phones", "units": "units", ctc.KIND: "wav2vec2"}
    if recipe.get("kind") not in kinds:
        raise UserError("features without AV-Flow's tokens", where=f"--like={known.dir}",
                        expected=" or ".join(kinds), found=str(recipe.get("kind")),
                        hint="name features made with --features=avflow")
    return kinds[recipe["kind"]], recipe["resample"], recipe.get("level")


def _write(job, clips, tokenizer, made, recipe, level, max_bad, fit_split, seed, name, progress):
    carried, _ = common.carried(clips, _CARRIED)
    fields = ["id", *dict.fromkeys((*carried, "audio", *tokenizer.columns))]

    def heard(clip) -> np.ndarray:
        audio = avflow.speech(clip["audio"], level)
        mel_TM = mel.of_speech(audio, None)
        return tokenizer(clip, "", audio, mel_TM, len(mel_TM))

    def example(source, i):
        clip = source[i]
        try:
            symbols = front_end.read(clip["text"], recipe["language"], count=recipe["table"]).ids
            tokens_TC = heard(clip)
            if len(symbols) > len(tokens_TC):
                raise UserError("more symbols than frames", expected=f"at most {len(tokens_TC)}",
                                found=str(len(symbols)),
                                hint="the text is not of this recording, or it is cut short")
        except UserError as error:
            raise UserError(f"cannot extract clip {clip['id']!r}: {error}", where=str(clips.dir),
                            hint="mend it, or --max_bad=0.1 to leave such clips out") from error
        return {"id": clip["id"], **{c: clip[c] for c in carried}, "symbols": symbols,
                "tokens": tokens_TC}

    def fit():
        source = clips.source(fit_split, fields)
        order = np.random.default_rng(seed).permutation(len(source))[:_FIT_CLIPS]
        sums = np.zeros(3)
        for i in order:
            try:
                x_TC = heard(source[int(i)]).astype(np.float64)
            except UserError:
                continue  # reported where it is extracted
            sums += x_TC.size, x_TC.sum(), np.square(x_TC).sum()
        mean = sums[1] / max(sums[0], 1)
        return {"mean": np.float32(mean),
                "std": np.float32(np.sqrt(max(sums[2] / max(sums[0], 1) - mean ** 2, 1e-12)))}

    fitted = job.once(STATISTICS, fit)
    if progress:
        print(f"statistics of the tokens: --config.system.token_dim={tokenizer.width} "
              f"--config.system.mean={fitted['mean']:.4f} --config.system.std={fitted['std']:.4f}")
    features = {"id": clips.features["id"], **{c: clips.features[c] for c in carried},
                "symbols": Feature((None,), "int32", "places of phonemes in the table of symbols"),
                "tokens": Feature((None, tokenizer.width), "float32", tokenizer.meaning, "",
                                  mel.FRAME_RATE)}
    return store.write_dataset(
        job, name=name, description=f"Symbols and tokens of {clips.name}: "
                                    f"tokens={tokenizer.recipe['kind']}.",
        features=features, recipes={"symbols": recipe, "tokens": made,
                                    FAMILY: {"kind": "text_tokens"}},
        codecs={STATISTICS: fitted, **({"tokens": tokenizer.arrays} if tokenizer.arrays else {})},
        splits={s: common.each(clips.source(s, fields), example, max_bad)
                for s in clips.splits}, totals=clips.splits, max_bad=max_bad, progress=progress)
