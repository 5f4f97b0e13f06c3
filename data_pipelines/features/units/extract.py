"""Speech -> semantic units at 50 Hz, for any network of the wav2vec 2.0 family and any corpus:
thousands of hours of one speaker a recording, or of dialogues.

An example is a whole recording:
    units (T, S) int32                 of each speaker's whole channel; S = 1 for one speaker
    speaker, text, words, identity     as the clips have them; of dialogues, those of each side
and with --tokens also what TAVID's text stage reads, so that it trains on speech of one speaker:
    tokens (n,), token_speaker (n,), turns (K, 6)      data_pipelines/features/tavid/tokenizer.py
Recordings of like length are encoded together, the longest first; what cannot be used is left out
with its reason. Suffixes: T frames, S speakers.
"""

import functools
from typing import Annotated

import numpy as np

from avjax.encoders import units as unit_library
from avjax.errors import UserError
from avjax.signal import level as level_library
from data_pipelines.declared import MaxBad, Option
from data_pipelines.features.common import clips as common
from data_pipelines.features.common import units as common_units
from data_pipelines.features.tavid.tokenizer import CODEC as TOKENIZER
from data_pipelines.features.tavid.tokenizer import KINDS, DialogueTokenizer, text_features
from data_pipelines.features.units.recordings import Recording, Recordings
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import FAMILY, Feature

ITEM_SECONDS = 320.0  # of speech that are encoded together; also what fills a batch of `windows`
NO_TOKENS = "none"


def extract(
    clips_dir, out_dir, *,
    unit_encoder: Annotated[str, Option("mel (k-means of mel frames), random (of a network with "
                                        "random weights), or a checkpoint: wav2vec 2.0, XLS-R, "
                                        "HuBERT, WavLM, or a folder of avjax weights import "
                                        "--system=units")] = "mel",
    num_units: Annotated[int, Option("size of a codebook that is fitted here", above=0)] = 100,
    centroids: Annotated[str | None, Option("published centroids (.npy) of the checkpoint's "
                                            "frames")] = None,
    layer: Annotated[int, Option("of the checkpoint")] = 35,
    silence_db: common_units.SilenceDb = 0.0,
    normalise: Annotated[str, Option("whether the checkpoint hears every utterance at zero mean "
                                     "and unit variance; auto: as it was trained, where its file "
                                     "says, else those with layer norm in every convolution do",
                                     choices=tuple(common_units.NORMALISE))] = "auto",
    same_level: Annotated[bool, Option("bring speech to one level first, as everywhere here; a "
                                       "network that does not normalise hears that")] = True,
    tokens: Annotated[str, Option("characters, phonemes, or the path of BERT's vocab.txt: also "
                                  "write what TAVID's text stage reads; none: "
                                  "do not")] = NO_TOKENS,
    like: Annotated[str | None, Option("features of TAVID or units: use their centroids and "
                                       "tokenizer, so that both can be mixed")] = None,
    max_bad: MaxBad = 0.1,
    seed: Annotated[int, Option("of what is fitted")] = 0,
    fit_split: str = "train", name: str = "units", progress: bool = True,
) -> store.Dataset:
    """Writes the units of a clip dataset. A killed job resumes; several processes share the work.

    Args:
      clips_dir: a dataset made by launch.prepare, with sound at any rate.
      out_dir: the folder to make.
      fit_split: everything fitted here sees this split only.

    Raises:
      UserError: no sound, centroids of another width, a layer that is not there, an unknown
        checkpoint, `like` and `centroids` together, too many unusable recordings.
    """
    store.refuse_existing(out_dir)
    if like and (centroids or silence_db):
        raise UserError("centroids twice", where="--like beside --centroids or --silence_db",
                        expected="one of them", found="both", hint="leave one out")
    unit_encoder, centroids = common_units.chosen(unit_encoder, centroids, layer, like=bool(like))
    clips = common.open_clips(clips_dir, out_dir)
    common.choice("fit_split", fit_split, tuple(clips.splits))
    common.require(clips, ("audio",), "prepare clips with sound")
    known = store.open_dataset(like) if like else None
    recipe = known.recipes.get("units", {}).get("level") if known else level_library.RECIPE
    level = recipe if same_level else None
    recordings = Recordings(clips, level)
    with common.job(out_dir, clips, "units", unit_encoder=unit_encoder, num_units=num_units,
                    centroids=centroids, layer=layer, normalise=normalise, same_level=same_level,
                    tokens=tokens, like=known and known.content, seed=seed,
                    fit_split=fit_split,
                    **({"silence_db": silence_db} if silence_db else {})) as job:
        if known:
            weights = None if unit_encoder in common_units.KINDS else unit_encoder
            encoder = common_units.of_dataset(known, weights)
        else:
            encoder = common_units.encoder(
                job, functools.partial(_speech, recordings, fit_split, seed), unit_encoder,
                num_units=num_units, centroids=centroids, layer=layer, seed=seed,
                normalise=normalise, silence_db=silence_db)
        encoder.frames.expect(sum(recordings.seconds(split, recordings.indices(split)).sum()
                                  for split in clips.splits))
        tokenizer = _tokenizer(recordings, fit_split, tokens, known)
        return _write(job, recordings, encoder, tokenizer, level, max_bad, name, progress)


def _write(job, recordings: Recordings, encoder, tokenizer, level, max_bad, name, progress):
    clips = recordings.clips
    items = {split: [functools.partial(_examples, recordings, split, group, encoder, tokenizer)
                     for group in _groups(recordings, split)] for split in clips.splits}
    recipes = {"units": common_units.with_hash(encoder) | ({"level": level} if level else {}),
               FAMILY: {"kind": "units"}}
    codecs = {"units": encoder.arrays()}
    if tokenizer:
        recipes["tokens"], codecs[TOKENIZER] = tokenizer.recipe, tokenizer.arrays()
    return store.write_dataset(
        job, name=name, description=f"Semantic units of {clips.name}, {encoder.recipe['kind']}.",
        features=_schema(recordings, encoder, tokenizer), recipes=recipes, codecs=codecs,
        splits=items, totals={split: len(found) for split, found in items.items()},
        max_bad=max_bad, progress=progress)


def _groups(recordings: Recordings, split: str) -> list[np.ndarray]:
    """Indices of recordings of like length, ITEM_SECONDS of sound together; the same for every
    backend, since the journal of a job counts them."""
    indices = recordings.indices(split)
    ends = np.cumsum(recordings.seconds(split, indices))
    return np.split(indices, np.flatnonzero(np.diff(ends // ITEM_SECONDS)) + 1)


def _examples(recordings: Recordings, split: str, indices, encoder, tokenizer) -> list:
    """The examples of some recordings, and an Unusable for each that is none."""
    out, found = [], []
    for index in indices:
        try:
            found.append(recordings.read(split, index))
        except store.Unusable as error:
            out.append(error)
    units = iter(encoder([a for r in found for a in r.channels]) if found else ())
    for recording in found:
        channels = [next(units) for _ in recording.channels]
        frames = recording.frames or len(channels[0])
        units_TS = np.stack([unit_library.fit_length(x, frames) for x in channels], 1)
        common.check_units(units_TS, encoder.num_units, recording.clip["id"])
        try:
            out.append(_example(recordings, recording, units_TS.astype(np.int32), tokenizer))
        except Exception as error:
            out.append(common.unusable(error, recording.clip["id"]))
    return out


def _example(recordings: Recordings, recording: Recording, units_TS, tokenizer) -> dict:
    out = {c: recording.clip[c] for c in recordings.carried} | {"units": units_TS}
    if tokenizer:
        if not recording.script.turns:
            raise store.Unusable("no text", expected="what is said", found="nothing")
        text = tokenizer.encode(recording.script)
        # what ends within the last frame, or behind the sound, ends with the units
        text.turns[:, 3:5] = np.minimum(text.turns[:, 3:5], [len(units_TS) - 1, len(units_TS)])
        out |= text.columns()
    return out


def _schema(recordings: Recordings, encoder, tokenizer) -> dict[str, Feature]:
    out = {c: recordings.clips.features[c] for c in recordings.carried}
    out["units"] = Feature((None, len(recordings.prefixes)), "int32",
                           f"semantic units, {encoder.recipe['kind']}", "", unit_library.RATE)
    if tokenizer:
        out |= text_features(f"tokens of the text, {tokenizer.kind}")
    return out


def _speech(recordings: Recordings, split: str, seed: int):
    """Lists of channels in random order, for what is fitted."""
    order = np.random.default_rng(seed).permutation(recordings.indices(split))
    refused = 0
    for index in order:
        try:
            yield list(recordings.read(split, index).channels)
        except store.Unusable:
            refused += 1
    if refused == len(order):
        raise UserError("nothing usable in a split", where=f"{recordings.clips.dir}, {split}",
                        expected="recordings of speech", found=f"{refused} that are not",
                        hint="mend the clips")


def _tokenizer(recordings: Recordings, split: str, tokens: str, known) -> DialogueTokenizer | None:
    if known and TOKENIZER in known.codecs:
        return DialogueTokenizer.from_codec(known.recipes["tokens"], known.codec(TOKENIZER))
    if tokens == NO_TOKENS:
        return None
    common.require(recordings.clips, ("text",), "prepare clips with what is said, or --tokens=none")
    speakers = max(len(recordings.prefixes), 2)
    if tokens not in KINDS:
        return DialogueTokenizer.from_file(tokens, speakers=speakers)
    texts = (row["text"] for row in recordings.clips.source(split, ("text",)))
    return DialogueTokenizer.fit(texts, kind=tokens, speakers=speakers)
