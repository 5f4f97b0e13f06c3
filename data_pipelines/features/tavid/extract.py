"""Recorded dialogues -> TAVID's features: one example a dialogue, or a piece of one, all S speakers
in it.

A dialogue of T25 frames at 25 Hz (its duration, cut to whole ones) has
    tokens (n,), token_speaker (n,), turns (K, 6)      of its script, see tokenizer.py; absent
                                     where no dialogue has one
    units (2 T25, S)                 semantic units at 50 Hz of each speaker's whole channel, then
                                     cut; 0 is the quietest where they are fitted
    mel (441 * 2 T25 // 256, S, 80)  normalised log-mel of each channel
    voices (S, 256)                  speaker embeddings of the whole recording
    portraits (S, H, W, 3), faces (S, F)               of each speaker, and its face embedding
    audio (T25, S, A), audio_tokens (T25, S, M K)   with an audio encoder: what drives Hallo2, see
                                     sounding.py
    regions (S, h, w, 3), face_mask (S, H, W)       with it and a VAE: where a face lies
    motion (T25, S, M)               where known: face code, then z-scored pose of the pictures
    latents (T25, S, h, w, 4), reference (S, h, w, 4)  with a VAE: of pictures and portraits
Pictures are drawn and encoded here and not kept. Everything fitted is fitted on one split. What
cannot be used is left out with its reason (data_pipelines/store/quarantine.py): see
conversations.py for channels, features/common/portraits.py for portraits.
"""

import functools
import json
import sys
import zlib
from typing import Annotated

import numpy as np

from avjax.encoders import units as unit_library
from avjax.encoders import voices as voice_encoders
from avjax.errors import UserError
from avjax.signal import level, mel
from avjax.systems.tavid.acoustic.config import USDM_MEL
from avjax.systems.tavid.visual.config import REGIONS
from data_pipelines.declared import MaxBad, Option
from data_pipelines.features.common import clips as common
from data_pipelines.features.common import units as common_units
from data_pipelines.features.common.painter import Painter
from data_pipelines.features.tavid import conversations, frozen_encoders, sounding
from data_pipelines.features.tavid.conversations import HOP, RATE
from data_pipelines.features.tavid.frozen_encoders import BATCH, Encoders, Source
from data_pipelines.features.tavid.given_faces import GivenFaces
from data_pipelines.features.tavid.tokenizer import KINDS, DialogueTokenizer, text_features
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import FAMILY, SPEAKERS, Feature

MEL = {"avflow": mel.SPEECH, "usdm": USDM_MEL | {"level": level.RECIPE}}
SCRIPTS = ("auto", "needed", "none")


def extract(
    clips_dir, out_dir, *,
    vae: Annotated[str | None, Option("workdir of a trained tavid.vae, or a published SD-VAE; "
                                      "without it there are no latents")] = None,
    reader: Annotated[str | None, Option("workdir of a trained face reader, kept for "
                                         "evaluation")] = None,
    vocoder: common.Vocoder = None,
    unit_encoder: Annotated[str, Option("mel (k-means of mel frames), random (of a network with "
                                        "random weights), a wav2vec2-type checkpoint, or a folder "
                                        "of avjax weights import --system=units")] = "mel",
    num_units: Annotated[int, Option("size of a codebook that is fitted here", above=0)] = 100,
    centroids: Annotated[str | None, Option("published centroids (.npy) of the checkpoint's "
                                            "frames")] = None,
    layer: Annotated[int, Option("of the checkpoint")] = 35,
    silence_db: common_units.SilenceDb = 0.0,
    tokens: Annotated[str, Option("characters, phonemes, or the path of BERT's "
                                  "vocab.txt")] = "characters",
    scripts: Annotated[str, Option("dialogues without a script: left out (needed), or everything "
                                   "without text, for all parts but the text model (none); auto: "
                                   "none where no dialogue has one, or clips are of one speaker",
                                   SCRIPTS)] = "auto",
    voice: Annotated[str, Option("what a voice is: statistics of its sound, or the vector of the "
                                 "network in the package resemblyzer",
                                 voice_encoders.KINDS)] = "statistics",
    mel_statistics: Annotated[str, Option("mean and deviation of mel: AV-Flow's, or those of the "
                                          "published unit Voicebox", tuple(MEL))] = "avflow",
    audio_encoder: Annotated[str | None, Option("wav2vec 2.0 weights whose layers drive Hallo2, or "
                                                "random")] = None,
    audio_tokens: Annotated[str | None, Option("what makes Hallo2's audio tokens of them, for the "
                                               "Motion Mapper's warm start: net.pth, or a workdir "
                                               "of configs/hallo2.py")] = None,
    face_embeddings: Annotated[str | None, Option("a recogniser's embeddings instead of the stand-"
                                                  "in: a folder of SPEAKER.face.npy or CLIP.face."
                                                  "npy, or \"clips\", whose column they are"
                                                  )] = None,
    size: Annotated[int, Option("side of the pictures, pixels", above=0)] = 64,
    zoom: Annotated[float, Option("of puppets", above=0)] = 1.2,
    video: Annotated[float, Option("share of the training examples with latents and motion; the "
                                   "others are speech alone", least=0, most=1)] = 1.0,
    max_seconds: Annotated[float, Option("longer dialogues are cut, in silences between turns",
                                         above=0)] = 60.0,
    max_bad: MaxBad = 0.5,
    seed: Annotated[int, Option("of what is fitted")] = 0,
    fit_split: str = "train", name: str = "features", progress: bool = True,
) -> store.Dataset:
    """Writes the feature dataset of recorded dialogues. A killed job resumes.

    Args:
      clips_dir: a dataset made by launch.prepare, with a channel a speaker, one or several, and
        perhaps a script.
      out_dir: the folder to make.
      fit_split: everything fitted here sees this split only.

    Raises:
      UserError: no sound, no faces, missing weights, centroids of another width, units outside
        the codebook, too many unusable recordings.
    """
    store.refuse_existing(out_dir)
    unit_encoder, centroids = common_units.chosen(unit_encoder, centroids, layer)
    clips = common.open_clips(clips_dir, out_dir)
    common.choice("fit_split", fit_split, tuple(clips.splits))
    prefixes = conversations.speaker_prefixes(clips)
    common.require(clips, ("audio", "speaker", "text"), "prepare clips with sound")
    if clips.features["audio"].rate != conversations.SAMPLE_RATE:
        raise UserError("clips have another sample rate", where=str(clips.dir),
                        expected=f"{conversations.SAMPLE_RATE} Hz",
                        found=f"{clips.features['audio'].rate} Hz", hint="prepare them again")
    seen = video > 0
    painter = Painter(clips, size, zoom) if seen else None
    pictures = frozen_encoders.load_pictures(vae) if seen and vae else None
    if pictures:
        pictures.latent_shape(size, size)  # before anything is computed
    reader_codec = frozen_encoders.load_reader(reader, painter) if seen and reader else None
    vocoder_codec = frozen_encoders.load_vocoder(vocoder)
    if audio_tokens and not audio_encoder:
        raise UserError("audio tokens of no sound", where="--audio_tokens",
                        expected="--audio_encoder beside it", found="none")
    sound = frozen_encoders.load_sound(audio_encoder, seed) if audio_encoder else None
    projection = sounding.load_tokens(audio_tokens, sound) if audio_tokens else None
    given = GivenFaces(face_embeddings, clips, prefixes) if painter and face_embeddings else None
    common.choice("mel_statistics", mel_statistics, tuple(MEL))
    if scripts == "auto":
        scripts = _scripts(clips, fit_split) if len(prefixes) > 1 else "none"
    has_text = scripts == "needed"
    tokenizer = DialogueTokenizer.from_file(
        tokens, speakers=len(prefixes)) if has_text and tokens not in KINDS else None
    source = Source(clips, prefixes, painter, needs_script=has_text, voice=voice)
    with common.job(out_dir, clips, "tavid", vae=vae, reader=reader, vocoder=vocoder,
                    unit_encoder=unit_encoder, num_units=num_units, centroids=centroids,
                    layer=layer, tokens=tokens, size=size, zoom=zoom, video=video,
                    max_seconds=max_seconds, seed=seed, fit_split=fit_split,
                    **({} if has_text else {"scripts": scripts}),
                    **{name: value for name, value in (
                        ("voice", voice), ("mel_statistics", mel_statistics),
                        ("audio_encoder", audio_encoder), ("audio_tokens", audio_tokens),
                        ("face_embeddings", face_embeddings), ("silence_db", silence_db))
                       if value not in (None, "statistics", "avflow", 0.0)}) as job:
        if has_text and tokenizer is None:
            tokenizer = DialogueTokenizer.fit(source.texts(fit_split), kind=tokens,
                                              speakers=len(prefixes))
        voices, mean_voices = frozen_encoders.fit_voices(job, source, fit_split)
        units = frozen_encoders.fit_units(job, source, fit_split, unit_encoder, num_units,
                                          centroids, layer, seed, silence_db)
        faces, first_portraits = None, {}
        if painter:
            faces, first_portraits = frozen_encoders.fit_faces(job, source, fit_split,
                                                               given)
        encoders = Encoders(tokenizer, units, voices, faces, painter, pictures, reader_codec,
                            vocoder_codec, sound, projection, given, MEL[mel_statistics])
        speakers = frozen_encoders.speakers_of(source, fit_split, mean_voices, first_portraits)
        return _write(job, source, encoders, speakers, video if seen else 0.0, max_seconds, max_bad,
                      fit_split, name, progress)


def _scripts(clips, split: str) -> str:
    """Whether dialogues of a split have scripts: "needed" or "none", which is told."""
    if any(row["text"].strip() for row in clips.source(split, ("text",))):
        return "needed"
    print("no dialogue here has a script: features without text, on which every part but the text "
          "model can be trained", file=sys.stderr, flush=True)
    return "none"


def _write(job, source: Source, encoders: Encoders, speakers, video, max_seconds, max_bad,
           fit_split, name, progress):
    clips = source.clips

    def items(split):
        share = video if split == fit_split else float(video > 0)
        indices = source.indices(split)
        for start in range(0, len(indices), BATCH):
            yield functools.partial(_examples, source, split, indices[start:start + BATCH],
                                    encoders, share, max_seconds)

    codecs = {c: clips.codec(c) for c in clips.codecs if c in ("face", "pose")} | encoders.codecs()
    codecs[SPEAKERS] = speakers
    recipes = encoders.recipes()
    recipes["mel"] |= common.band(clips)  # the loader refuses it where mel is made
    counts = {s: -(-len(source.indices(s)) // BATCH) for s in clips.splits}
    return store.write_dataset(
        job, name=name, description=f"TAVID features of {clips.name}: "
                                    f"units={encoders.units.recipe['kind']}, "
        f"tokens={encoders.tokens.kind if encoders.tokens else 'none'}, "
        f"pictures={encoders.painter.recipe['kind'] if encoders.painter else 'none'}.",
        features=_schema(source, encoders),
        recipes=recipes | {FAMILY: {"kind": "tavid"}}, codecs=codecs,
        splits={s: items(s) for s in clips.splits}, totals=counts, max_bad=max_bad,
        progress=progress)


def _examples(source: Source, split: str, indices, encoders: Encoders, video: float,
              max_seconds: float) -> list:
    """The examples of some records, and an Unusable for each that is none."""
    out, records = [], []
    for i in indices:
        try:
            records.append(source.record(source.clip(split, i)))
        except store.Unusable as error:
            out.append(error)
    channels = [frozen_encoders.at_16k(a) for record in records for a in record.audio]
    units = iter(encoders.units(channels) if channels else ())
    voices = source.voices(records)
    for record in records:
        units_TS = np.stack([unit_library.fit_length(next(units), 2 * record.frames)
                             for _ in record.audio], 1).astype(np.int32)
        common.check_units(units_TS, encoders.units.num_units, record.clip["id"])
        try:
            out += _of_record(record, units_TS, voices[record.clip["id"]], source, encoders, video,
                              max_seconds)
        except Exception as error:
            out.append(common.unusable(error, record.clip["id"]))
    return out


def _of_record(record, units_TS, voices_SV, source: Source, encoders: Encoders, video: float,
               max_seconds: float) -> list:
    """Its examples; all or, where it raises, none."""
    out, shared = [], _of_recording(record, voices_SV, source, encoders)
    found = list(conversations.pieces(record, max_seconds))
    for k, piece in enumerate(found):
        id = record.clip["id"] if len(found) == 1 else f"{record.clip['id']}.{k}"
        if isinstance(piece, store.Unusable):
            out.append(piece.of(id))
            continue
        seen = zlib.crc32(f"video: {id}".encode()) < video * 2**32
        out.append({"id": id, **shared, **_of_piece(record, piece, units_TS, source, encoders,
                                                    seen)})
    return out


def _of_recording(record, voices_SV, source: Source, encoders: Encoders) -> dict:
    """What all pieces have in common. Raises store.Unusable for portraits that are none."""
    clip, out = record.clip, {"speakers": json.dumps(record.names)}
    if not np.isfinite(voices_SV).all():
        raise store.Unusable("silent channel", expected="speech of every speaker, here or in "
                             "another training clip", found="nothing of one")
    out["voices"] = encoders.voices.scale(voices_SV)
    if source.has_identity:
        out["identity"] = np.stack([clip[f"{p}identity"] for p in source.prefixes])
    if encoders.painter:
        portraits_SHWC = np.stack([frozen_encoders.portrait_of(clip, p, encoders.painter)
                                   for p in source.prefixes])
        out |= {"portraits": portraits_SHWC,
                "faces": encoders.given_faces(clip, record.names) if encoders.given_faces
                else encoders.faces(portraits_SHWC)}
        if encoders.pictures:
            out["reference"] = encoders.pictures.encode(portraits_SHWC)
        if encoders.pictures and encoders.sound:
            out |= _shapes(encoders, out["reference"].shape[:3], portraits_SHWC.shape[1:3])
    return out


def _of_piece(record, piece: conversations.Piece, units_TS, source: Source, encoders: Encoders,
              seen: bool) -> dict:
    audio = [a[piece.start * HOP:piece.end * HOP] for a in record.audio]
    out = {"text": piece.script.text,
           "units": units_TS[2 * piece.start:2 * piece.end],
           "mel": np.stack([mel.normalise(mel.log_mel(a, encoders.mel), encoders.mel)
                            for a in audio], 1).astype(np.float32)}
    if encoders.sound:
        heard = [encoders.sound(frozen_encoders.at_16k(a), piece.end - piece.start) for a in audio]
        out["audio"] = np.stack(heard, 1)
        if encoders.audio_tokens:
            out["audio_tokens"] = np.stack([encoders.audio_tokens(x) for x in heard], 1)
    if encoders.tokens:
        text, last = encoders.tokens.encode(piece.script), 2 * (piece.end - piece.start)
        # the last sound may end within the frame that is cut off
        text.turns[:, 4] = np.minimum(text.turns[:, 4], last)
        out |= text.columns()
    if not encoders.painter:
        return out
    times_T = np.arange(piece.start, piece.end if seen else piece.start) / RATE
    if encoders.painter.has_motion:
        out["motion"] = np.stack([encoders.painter.motion(record.clip, p, times_T)
                                  for p in source.prefixes], 1)
    if encoders.pictures:
        drawn = (encoders.painter.pictures(record.clip, p, times_T) for p in source.prefixes)
        out["latents"] = np.stack([encoders.pictures.encode(x) for x in drawn],
                                  1).astype(np.float16)
    return out


def _shapes(encoders: Encoders, latents, pixels) -> dict[str, np.ndarray]:
    """The maps of every speaker's portrait. latents: (S, h, w); pixels: (H, W)."""
    recipe = encoders.painter.recipe
    return {"regions": np.stack([sounding.regions(recipe, *latents[1:])] * latents[0]),
            "face_mask": np.stack([sounding.face_mask(recipe, *pixels)] * latents[0])}


def _schema(source: Source, encoders: Encoders) -> dict[str, Feature]:
    speakers = len(source.prefixes)
    out = {"id": source.clips.features["id"],
           "text": Feature((), "str", "the script, a line a turn "
                           "(data_pipelines/features/tavid/script.py)"),
           "speakers": Feature((), "str", "JSON list of the speakers' names"),
           "units": Feature((None, speakers), "int32", "semantic units, "
                                                      f"{encoders.units.recipe['kind']}", "",
                            unit_library.RATE),
           "mel": Feature((None, speakers, mel.RECIPE["bands"]), "float32",
                          "normalised log-mel of each channel",
                          "standard deviations", mel.FRAME_RATE),
           "voices": Feature((speakers, voice_encoders.WIDTH), "float32", "speaker embeddings",
                             "standard deviations")}
    if encoders.tokens:
        out |= text_features(f"tokens of the script, {encoders.tokens.kind}")
    if source.has_identity:
        out["identity"] = Feature((speakers, *source.clips.features["identity"].shape), "float32",
                                  "identity vectors")
    if encoders.sound:
        out["audio"] = Feature((None, speakers, encoders.sound.width), "float16",
                               "frames of every layer of wav2vec 2.0", "", RATE, apart=True)
    if encoders.audio_tokens:
        out["audio_tokens"] = Feature((None, speakers, encoders.audio_tokens.width), "float16",
                                      "Hallo2's audio tokens", "", RATE, apart=True)
    if not encoders.painter:
        return out
    size = encoders.painter.size
    out |= {"portraits": Feature((speakers, size, size, 3), "uint8", "a picture of each speaker"),
            "faces": Feature((speakers, encoders.faces.width), "float32",
                             "face embeddings of the portraits")}
    if encoders.painter.has_motion:
        out["motion"] = Feature((None, speakers, encoders.painter.motion_width), "float32",
                                "face code, then z-scored pose",
                                "standard deviations", RATE)
    if encoders.pictures:
        shape = encoders.pictures.latent_shape(size, size)
        out |= {"reference": Feature((speakers, *shape), "float32", "latents of the portraits"),
                "latents": Feature((None, speakers, *shape), "float16", "latents of the pictures",
                                   "", RATE, apart=True)}
    if encoders.pictures and encoders.sound:
        out |= {"regions": Feature((speakers, *shape[:2], 3), "float32", "weights of the regions "
                                   f"{', '.join(REGIONS)} in the portraits"),
                "face_mask": Feature((speakers, size, size), "float32", "where the faces lie in "
                                     "the portraits")}
    return out
