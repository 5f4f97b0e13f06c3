"""Talker-T2AV's release as its owners hand it out -> what a workdir needs beside the network's
weights: the frozen networks around it, the tokenizer and the motion's statistics.

Where everything lies: avjax/systems/talker/release_layout.py.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from avjax.codecs import latents, motion
from avjax.codecs.lia_x import codec as lia_x
from avjax.encoders.voices import wavlm_ecapa
from avjax.errors import UserError
from avjax.systems.talker import release_layout as layout
from data_pipelines.features.talker import audio_codec, frontend
from data_pipelines.features.talker.statistics import motion_statistics
from data_pipelines.features.talker.tokenizer import TEMPLATES, Tokenizer

NETWORKS = ("model.safetensors", "model.safetensors.index.json")  # one file, or several
# transformers' name of a size -> ours; arrays show all but the last two
_SIZES = {"hidden_size": "d_model", "num_hidden_layers": "num_layers",
          "num_attention_heads": "num_heads", "num_key_value_heads": "num_kv_heads",
          "head_dim": "head_dim", "intermediate_size": "d_ff", "rms_norm_eps": "rms_eps",
          "rope_theta": "rope_theta"}
_UNSEEN = ("rms_eps", "rope_theta")


@dataclasses.dataclass(frozen=True)
class Parts:
    """The files of a release; None for what is not there. `texts`: the folder with the tokenizer,
    its chat template and the language model's config.json; `scale`: that of the statistics."""

    network: Path
    texts: Path
    audio: Path
    scale: Path
    faces: Path | None
    voice: Path | None


def parts(folder: str, network: str | None = None) -> Parts:
    """What lies in a folder, and beside it. UserError: no folder, no network in it (or at
    `network`), no audio codec."""
    here = Path(folder)
    if not here.is_dir():
        raise UserError("no such folder", where="--folder", expected="a release, as its owners lay "
                        "it out", found=folder)
    near = (here, here.resolve().parent)
    own = [place / f"{d}{layout.NETWORK}" for place in near for d in layout.DOWNLOADS]
    texts = next((p for p in (here, *own) if any((p / n).is_file() for n in NETWORKS)), None)
    if network is None and texts is None:
        raise UserError("no network in the folder", where=f"--folder={folder}",
                        expected=layout.WEIGHTS, found=_inside(here), hint="--file=FILE names it")
    found = Path(network) if network else _first(texts, NETWORKS)
    beside = found if found.is_dir() else found.parent
    if (beside / Path(layout.TOKENIZER).name).is_file() or texts is None:
        texts = beside
    audio = _nearby(near, [d + layout.AUDIO_CODEC for d in layout.DOWNLOADS])
    if audio is None:
        raise UserError("no audio codec in the folder", where=f"--folder={folder}",
                        expected=layout.AUDIO_CODEC, found=_inside(here), hint="fetch it: without "
                        "it nobody can hear what the network says")
    scale = _nearby(near, [layout.MOTION_MEAN, Path(layout.MOTION_MEAN).name])
    return Parts(found, texts, audio, here if scale is None else scale.parent,
                 _nearby(near, layout.RENDERERS), _nearby(near, layout.VOICES))


def stated(parts: Parts, shown) -> dict[str, float]:
    """{"rope_theta", "rms_eps"} of the language model's config.json, which no array shows; {}
    without one. UserError: unreadable, or of another network than its arrays show (`shown`: a
    config.system)."""
    path = parts.texts / Path(layout.CONFIG).name
    if not path.is_file():
        return {}
    try:
        content = dict(json.loads(path.read_text()))
        rotary = dict(content.get("rope_parameters") or content.get("rope_scaling") or {})
    except (ValueError, TypeError) as error:
        raise UserError("unreadable config of a model", where=str(path), found=str(error)[:200],
                        hint="fetch it again") from error
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    if kind != "default":
        raise UserError("a rotary embedding of another kind", where=str(path),
                        expected="default, as Qwen3's", found=str(kind))
    content = {"rope_theta": rotary.get("rope_theta")} | content
    found = {ours: content[theirs] for theirs, ours in _SIZES.items()
             if isinstance(content.get(theirs), int | float)}
    other = {name: value for name, value in found.items()
             if name not in _UNSEEN and value != shown[name]}
    if other:
        raise UserError("the config is of another network than the weights", where=str(path),
                        expected=", ".join(f"{n} = {shown[n]}" for n in other),
                        found=", ".join(f"{n} = {v}" for n, v in other.items()),
                        hint="fetch both again")
    return {name: float(found[name]) for name in _UNSEEN if name in found}


def front_end(parts: Parts, settings) -> frontend.Encoder:
    """What the network reads of speech, text and faces, as extraction has it: every file read and
    checked. settings: its config.system. UserError: missing, unreadable, of another width or of
    other networks."""
    tokens = _tokenizer(parts.texts, settings.vocab)
    scale = motion_statistics(parts.scale, None)
    audio = audio_codec.WhisperXVAE.from_checkpoint(str(parts.audio))
    made_by = {"kind": lia_x.KIND, "width": motion.DIM, "normalised": False}
    if parts.faces:
        made_by = lia_x.loaded(str(parts.faces)).recipe
    voice = wavlm_ecapa.Unloaded({"kind": wavlm_ecapa.KIND, "width": settings.speaker_dim,
                                  "sample_rate": wavlm_ecapa.WavlmEcapa.sample_rate})
    if parts.voice:
        voice = wavlm_ecapa.load(str(parts.voice))
    for name, width, file in (("audio_dim", latents.DIM, parts.audio),
                              ("motion_dim", motion.DIM, parts.scale),
                              ("speaker_dim", voice.width, parts.voice)):
        if settings[name] != width:
            raise UserError("parts of different networks", where=str(file),
                            expected=f"{settings[name]} numbers, the network's {name}",
                            found=str(width), hint="fetch both again")
    moves = motion.from_recipe(made_by | {"rate": motion.RATE}, scale)
    return frontend.Encoder(tokens, audio, voice, moves, level=None)


def _tokenizer(folder: Path, vocab: int) -> Tokenizer:
    """UserError: none, of another vocabulary, or with another chat template than Qwen3's."""
    file = folder / Path(layout.TOKENIZER).name
    if not file.is_file():
        raise UserError("tokenizer missing", where=str(folder), expected=file.name,
                        found=_inside(folder), hint="fetch it: it lies beside the weights")
    found = Tokenizer.from_file(file)
    largest = max((i for token, i in found.ids.items() if token not in layout.PLACEHOLDERS),
                  default=-1)
    if largest >= vocab:
        raise UserError("the tokenizer is of another network", where=str(file),
                        expected=f"ids below {vocab}, the network's embeddings",
                        found=f"ids up to {largest}", hint="fetch both again")
    template = _chat_template(folder)
    absent = [mark for mark in TEMPLATES[found.kind] if mark.startswith("<")
              and template and mark not in template]
    if absent:
        raise UserError("another chat template than Qwen3's", where=str(folder),
                        expected=", ".join(dict.fromkeys(absent)) + " in it", found="none",
                        hint="fetch it again")
    return found


def _chat_template(folder: Path) -> str:
    """Its text; "" where there is none. It is looked at and never run."""
    file, settings = (folder / Path(name).name for name in (layout.CHAT_TEMPLATE,
                                                            layout.TOKENIZER_CONFIG))
    try:
        if file.is_file():
            return file.read_text(encoding="utf-8")
        content = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    except ValueError as error:
        raise UserError("unreadable chat template", where=str(folder), found=str(error)[:200],
                        hint="fetch it again") from error
    template = content.get("chat_template", "") if isinstance(content, dict) else ""
    return template if isinstance(template, str) else json.dumps(template)


def _first(folder: Path, names: Iterable[str]) -> Path:
    return next(folder / n for n in names if (folder / n).is_file())


def _nearby(places: Iterable[Path], names: Iterable[str]) -> Path | None:
    return next((place / n for place in places for n in names if (place / n).is_file()), None)


def _inside(folder: Path) -> str:
    return ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
