"""What a workdir holds of Talker-T2AV's release, as files that the published code loads.

The network itself is avjax/systems/talker/published.py's. Everything around it is frozen, so files
that were given are linked or copied, where they are of the format that the published code opens;
others are written anew from their arrays. What is this project's own (stand-ins) is left out, and
told. Where everything lies: avjax/systems/talker/release_layout.py.
"""

import json
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from avjax.codecs import motion
from avjax.codecs.lia_x import codec as lia_x
from avjax.codecs.published import whisperx_vae
from avjax.encoders.published import whisper
from avjax.encoders.voices import wavlm_ecapa
from avjax.errors import UserError
from avjax.storage import atomic
from avjax.systems.talker import release_layout as layout
from avjax.weights import files
from avjax.weights.fold import split_weight_norm
from avjax.weights.reader import read_checkpoint, read_state_dict
from avjax.weights.torch_writer import write_torch_zip
from data_pipelines.features.talker import audio_codec, decode, tokenizer, voices

TEXTS = "texts"  # folder of a workdir: tokenizer, template and config as a release had them
_HEADS = {"velocity_layers": 8, "velocity_heads": 8, "velocity_width": 1024}  # not to be set there
# the published chat templates, for a dialogue of what is said and of the places of patches
_TEMPLATES = {
    "qwen3-chat": "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
                  "{%- if m.role == 'assistant' %}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
                  "{{ m.content + '<|im_end|>\\n' }}{%- endfor %}",
    "byte-bpe": "{%- for m in messages %}{%- if m.role == 'user' %}"
                "{{ '<|im_start|>' + m.content + '<|im_end|>' }}"
                "{%- else %}{{ m.content }}{%- endif %}{%- endfor %}"}
_POSITIONS = 40960  # of Qwen3
Say = Callable[[str], None]


def embeddings(state: dict[str, np.ndarray], codecs: Mapping, recipes: Mapping) -> int:
    """Makes room for the published code's placeholders, which it embeds, and of which it drops what
    comes of that; returns how many rows there are."""
    names = ("llm.model.embed_tokens.weight", "llm.lm_head.weight")
    tokens = tokenizer.Tokenizer.from_codec(recipes["tokens"], codecs.get(tokenizer.CODEC))
    more = set(layout.PLACEHOLDERS) - tokens.ids.keys()
    table_VD = state[names[0]]
    missing = max(0, tokens.vocabulary + len(more) - len(table_VD))
    for name in names:
        state[name] = np.pad(table_VD, ((0, missing), (0, 0)))
    return len(table_VD) + missing


def check(system, recipes: Mapping[str, dict]) -> None:
    """UserError for a network that the published code has no classes for, or no tokenizer."""
    hint = "--out=model.safetensors keeps it for this project"
    if (kind := recipes["tokens"]["kind"]) not in _TEMPLATES:
        raise UserError("the published code reads no such text", where="recipes.json, tokens",
                        expected=" or ".join(_TEMPLATES), found=kind, hint=hint)
    if system.coupling != "separate":
        raise UserError("the published code has no such network", where="config.system.coupling",
                        expected="separate", found=system.coupling, hint=hint)


def write(folder: Path, workdir: Path, system, recipes: Mapping[str, dict],
          codecs: Mapping[str, Mapping[str, np.ndarray]], say: Say) -> None:
    """Writes all but the network's weights.

    Args:
      folder: to write into, which has the network's folder.
      workdir: that holds the frozen networks.
      system: its config.system, with as many embeddings as were written.
      recipes, codecs: of the workdir.
      say: is told what was written, and what was left out and why.

    Raises UserError for what cannot be read.
    """
    _texts(folder, workdir, system, recipes, codecs, say)
    _motion(folder, workdir, recipes.get("motion", {}), codecs, say)
    _sound(folder, workdir, recipes["audio"], codecs, say)
    _voice(folder, workdir, recipes["voice"], say)
    wanted = {"patch_size": system.patch, "delay": system.delay,
              "speech_embedding_dim": system.audio_dim, "motion_embedding_dim": system.motion_dim,
              "patch_encoder_n_layer": system.encoder_layers,
              "patch_encoder_n_head": system.encoder_heads}
    say("arguments of the published model: " + ", ".join(f"{n}={v}" for n, v in wanted.items()))
    other = {name: system[name] for name in _HEADS if system[name] != _HEADS[name]}
    if other:
        say("the published code writes the sizes of its heads into itself: there, change "
            + ", ".join(f"{name} {_HEADS[name]} to {value}" for name, value in other.items()))


def _texts(folder, workdir, system, recipes, codecs, say) -> None:
    tokens = tokenizer.Tokenizer.from_codec(recipes["tokens"], codecs.get(tokenizer.CODEC))
    kept = workdir / TEXTS
    for name, text in ((layout.TOKENIZER_CONFIG, json.dumps(_tokenizer_config(tokens), indent=1)),
                       (layout.CHAT_TEMPLATE, _TEMPLATES[tokens.kind]),
                       (layout.CONFIG, json.dumps(_qwen3(system, tokens), indent=1))):
        own = kept / Path(name).name
        same = own.is_file() and (name != layout.CONFIG or _rows(own) == system.vocab)
        (folder / name).write_text(own.read_text() if same else text)
    (folder / layout.TOKENIZER).write_bytes(tokens.content)
    say(f"{layout.NETWORK}: tokenizer and chat template, {tokens.kind}")
    if tokens.scripts is not None:
        say("  this tokenizer reads plain text: spell out numbers and marks first, which avjax "
            "generate does by itself")


def _rows(config: Path) -> int | None:
    return json.loads(config.read_text()).get("vocab_size")


def _tokenizer_config(tokens: tokenizer.Tokenizer) -> dict:
    ids = tokens.ids
    pad = next(t for t in ("<|endoftext|>", "<|im_end|>") if t in ids)
    return {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
            "pad_token": pad, "clean_up_tokenization_spaces": False,
            "model_max_length": _POSITIONS}


def _qwen3(system, tokens: tokenizer.Tokenizer) -> dict:
    """config.json of the language model."""
    return {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
            "vocab_size": system.vocab, "hidden_size": system.d_model,
            "intermediate_size": system.d_ff, "num_hidden_layers": system.num_layers,
            "num_attention_heads": system.num_heads, "num_key_value_heads": system.num_kv_heads,
            "head_dim": system.head_dim, "rms_norm_eps": system.rms_eps,
            "rope_theta": system.rope_theta, "max_position_embeddings": _POSITIONS,
            "attention_bias": False, "hidden_act": "silu", "tie_word_embeddings": True,
            "eos_token_id": tokens.ids["<|im_end|>"], "torch_dtype": "float32"}


def _motion(folder, workdir, recipe, codecs, say) -> None:
    if recipe.get("kind", "none") in ("none", motion.KIND):
        say(f"{layout.STATISTICS}, {layout.RENDERER}: left out: the model has no motion" if
            recipe.get("kind", "none") == "none" else
            f"{layout.STATISTICS}, {layout.RENDERER}: left out: this model's motion is face codes "
            "and head poses of its own data, which LIA-X does not draw")
        return
    (folder / layout.STATISTICS).mkdir()
    for name, file in (("mean", layout.MOTION_MEAN), ("std", layout.MOTION_STD)):
        np.save(folder / file, np.asarray(codecs["motion"][name], np.float32))
    say(f"{layout.STATISTICS}: the motion's statistics")
    place = workdir / decode.WEIGHTS
    if place.exists() and (found := lia_x.LiaX.from_file(str(place)).weights) != recipe.get(
            "weights", found):
        raise UserError("the weights of another LIA-X", where=str(place),
                        expected=f"weights {recipe['weights']}", found=found)
    _given(place, folder / layout.RENDERER, lambda state: state, say,
           f"not in WORKDIR/{decode.WEIGHTS}: use the file of LIA-X that drew for this model")


def _sound(folder, workdir, recipe, codecs, say) -> None:
    if recipe.get("kind") != audio_codec.KIND:
        say(f"{layout.AUDIO_CODEC}: left out: this model's audio latents are {recipe.get('kind')} "
            "of its own data, which the published code has no codec for")
        return
    codec = audio_codec.from_recipe(recipe, codecs, workdir)
    places = codec.found
    out = folder / layout.AUDIO_CODEC
    out.parent.mkdir()
    whisper_file = Path(places["whisper"] or places["codec"])
    stated = (whisper_file if whisper_file.is_dir() else whisper_file.parent) / "config.json"
    if stated.is_file():  # Whisper's heads, where they are not 64 wide
        atomic.link(stated, out.with_name(stated.name))
    if not places["whisper"] and (file := _torch(Path(places["codec"]))) is not None and {
            "state_dict", "hyper_parameters"} <= read_checkpoint(str(file), foreign=True).keys():
        atomic.link(file, out)
        say(f"{layout.AUDIO_CODEC}: {file}, as it is")
        return
    own, inner = whisperx_vae.split(read_state_dict(places["codec"]))
    inner = inner or read_state_dict(places["whisper"])
    state = split_weight_norm(own) | {f"{whisperx_vae.WHISPER}encoder.{name}": x for name, x
                                      in whisper.canonical(inner).items()}
    write_torch_zip(out, {"state_dict": state, "hyper_parameters": {"cfg": _codec_config(own,
                                                                                        codec)}})
    say(f"{layout.AUDIO_CODEC}: written anew of {', '.join(filter(None, places.values()))}")


def _codec_config(own: Mapping[str, np.ndarray],
                  codec: audio_codec.WhisperXVAE) -> types.SimpleNamespace:
    """What the published class reads of its config."""
    width = own["vae.in_proj.weight"].shape[1]
    encoder = types.SimpleNamespace(in_dim=len(own["CodecEnc.block.0.weight"]), hidden_dim=width,
                                    ratios=list(codec.config.down))
    decoder = types.SimpleNamespace(hidden_dim=len(own["CodecDec.model.0.weight"]),
                                    z_dim=own["vae.out_proj.weight"].shape[1],
                                    ratios=list(codec.config.up))
    return types.SimpleNamespace(model=types.SimpleNamespace(codec_encoder=encoder,
                                                             codec_decoder=decoder))


def _voice(folder, workdir, recipe, say) -> None:
    if recipe.get("kind") != wavlm_ecapa.KIND:
        say(f"{layout.VOICE}: left out: this model's voices are {recipe.get('kind')}, which the "
            "published code does not compute")
        return
    place = workdir / voices.FOLDER
    if place.exists():
        wavlm_ecapa.of_recipe(recipe, str(place))  # or says that it is another
    _given(place, folder / layout.VOICE, lambda state: {"model": state}, say,
           f"not in WORKDIR/{voices.FOLDER}: use the file that made this model's voices")


def _given(place: Path, out: Path, tree: Callable[[dict], dict], say: Say, without: str) -> None:
    """A frozen network of a workdir: its PyTorch file as it is, else written anew."""
    if not place.exists():
        say(f"{out.name}: left out: {without}")
    elif file := _torch(place):
        atomic.link(file, out)
        say(f"{out.name}: {file}, as it is")
    else:
        write_torch_zip(out, tree(read_state_dict(str(place))))
        say(f"{out.name}: written anew of {place}")


def _torch(place: Path) -> Path | None:
    """The one PyTorch file that a place is or holds."""
    found: Iterator[str] | list[str] = [str(place)]
    if place.is_dir():
        found = files.find_in_folder(str(place))
    [*rest, last] = found
    return Path(last).resolve() if not rest and last.endswith(files.TORCH) else None
