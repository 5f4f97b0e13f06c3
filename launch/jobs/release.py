"""A whole release into a workdir, or out of one: the network, and beside it all that it takes to
decode its streams and to drive it.

    WORKDIR/checkpoints, config.json, recipes.json, codecs/

AV-Flow:
    WORKDIR/vocoder/    makes the sound
    WORKDIR/ctc/        makes tokens of sound
    WORKDIR/text/       makes tokens of text, a workdir of its own

Talker-T2AV:
    WORKDIR/audio_codec/  makes latents of sound; what makes sound of them is in codecs/
    WORKDIR/voice/        makes the voice of a recording
    WORKDIR/lia_x/        draws on a portrait
    WORKDIR/texts/        tokenizer, chat template and config as they came, for an export

Hallo2 (or what its training begins with):
    WORKDIR/audio_encoder/  hears the sound; the picture VAE is in codecs/
"""

import json
import shutil
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from avjax.errors import UserError
from avjax.storage import atomic, failures
from avjax.systems.talker import release_layout
from avjax.systems.talker.config import INFERENCE
from avjax.systems.tavid.visual import published
from avjax.weights.reader import read_state_dict
from configs import avflow_50h
from data_pipelines import vocoders
from data_pipelines.decode import Decoder
from data_pipelines.features.common import ctc
from data_pipelines.features.hallo2 import prompt as hallo2_prompt
from data_pipelines.features.hallo2 import release as hallo2
from data_pipelines.features.talker import audio_codec, decode, voices
from data_pipelines.ingest.avflow50h import release
from data_pipelines.ingest.talker import exported
from data_pipelines.ingest.talker import release as talker
from data_pipelines.store.schema import CODECS_DIR, FAMILY, RECIPES_FILE
from launch.jobs import weights

AVFLOW, TALKER, TEXT_SYSTEM, HALLO2 = "avflow", "talker", "avflow.text", "tavid.visual"
TEXT = "text"  # the folder in a workdir


def import_folder(system: str, folder: str, workdir: str, *, file: str | None = None,
                  config: ConfigDict | None = None, say: weights.Say = print) -> ConfigDict:
    """Imports everything of a folder (see data_pipelines/ingest/avflow50h/release.py,
    talker/release.py and data_pipelines/features/hallo2/release.py), or nothing; returns the
    config.

    Args:
      file: the network's file, where the folder has several or it lies elsewhere.
      config: the experiment; default the release's, with the sizes that the files show.
      say: is told what was taken, and what is missing.

    Raises UserError: another system; a part that is needed and missing; files of another network,
    mel or kind; a workdir that is in use.
    """
    importers = {AVFLOW: _avflow, TALKER: _talker, HALLO2: _hallo2}
    if system not in importers:
        raise UserError("no release of this system is known", where="--system",
                        expected=" or ".join(importers), found=system,
                        hint="--file imports one file")
    return importers[system](folder, workdir, file, config, say)


def _avflow(folder: str, workdir: str, file: str | None, config: ConfigDict | None,
            say: weights.Say) -> ConfigDict:
    parts = release.parts(folder, file)
    say(f"network: {parts.network}")

    def beside(settings: ConfigDict, place: Path) -> dict[str, dict]:
        recipes, codecs = release.described(
            parts.folder, participant=settings.partner_expression_dim > 0,
            latent=settings.head_dim)
        _describe(place, recipes, codecs)
        _vocoder(parts.vocoder, place, say)
        _sound(parts.sound, place, say)
        _text(parts.text, place, say)
        return recipes

    return weights.import_file(AVFLOW, str(parts.network), workdir, beside=beside,
                               config=config or _experiment(parts))


def _talker(folder: str, workdir: str, file: str | None, config: ConfigDict | None,
            say: weights.Say) -> ConfigDict:
    parts = talker.parts(folder, file)
    say(f"network: {parts.network}")
    config = config or _talker_experiment(parts, say)

    def beside(settings: ConfigDict, place: Path) -> dict[str, dict]:
        front = talker.front_end(parts, settings)
        codecs = front.codecs
        home = Path(workdir).resolve() / audio_codec.PLACES["codec"] / parts.audio.name
        codecs[audio_codec.FILES] |= {"codec": np.array(str(home))}
        recipes = front.recipes | {FAMILY: {"kind": TALKER}}
        recipes["voice"]["of"] = "own"  # of the utterance itself, as published
        _describe(place, recipes, codecs)
        say(f"tokenizer and chat template: {parts.texts}")
        say(f"motion's statistics: {parts.scale}")
        for what, path, name, without in (
                ("sound", parts.audio, audio_codec.PLACES["codec"], ""),
                ("voices", parts.voice, voices.FOLDER, "avjax generate --audio wants --voice=FILE"),
                ("faces", parts.faces, decode.WEIGHTS,
                 "avjax generate --portrait wants --face_codec=FILE")):
            if path:
                own = path.parent != parts.texts  # else the config beside it is the network's
                _keep(place / name, path, *[path.with_name("config.json")] * own)
            say(f"{what}: {path or f'none found; {without}'}")
        _copy(place / exported.TEXTS, *(parts.texts / Path(name).name for name in (
            release_layout.TOKENIZER, release_layout.TOKENIZER_CONFIG,
            release_layout.CHAT_TEMPLATE, release_layout.CONFIG)))
        return recipes

    return weights.import_file(TALKER, str(parts.network), workdir, beside=beside, config=config)


def _hallo2(folder: str, workdir: str, file: str | None, config: ConfigDict | None,
            say: weights.Say) -> ConfigDict:
    parts = hallo2.parts(folder, file)
    say(f"network: {parts.network}")
    if config is None:
        config = weights.shown_config(HALLO2, str(parts.network), published.opened(
            str(parts.network)))
        config.system.update(hallo2.INFERENCE)

    def beside(settings: ConfigDict, place: Path) -> dict[str, dict]:
        recipes, codecs = hallo2.described(parts, settings)
        _describe(place, recipes, codecs)
        say(f"pictures: {parts.vae or 'no VAE found, so nothing can be shown or drawn'}")
        if parts.hearing:
            own = parts.hearing.with_name("config.json")
            _keep(place / hallo2_prompt.KEPT, parts.hearing, own)
        say(f"sound: {parts.hearing or 'none found; avjax generate wants --audio_encoder=FILE'}")
        say("faces: a recogniser's, <portrait>.face.npy beside each portrait")
        return recipes

    return weights.import_file(HALLO2, str(parts.network), workdir, beside=beside, config=config,
                               say=say)


def _talker_experiment(parts: talker.Parts, say: weights.Say) -> ConfigDict:
    """That of our own export, or the published one, with the sizes of the network's file, what its
    config.json says, and the sampler of the published inference."""
    file = str(parts.network)
    if ours := weights.exported_config(TALKER, file):
        return ours
    config = weights.shown_config(TALKER, file, read_state_dict(file))
    config.system.update(talker.stated(parts, config.system))
    config.system.update(INFERENCE)
    say("sampler: as the release's infer.py ("
        + ", ".join(f"{name}={value}" for name, value in INFERENCE.items()) + ")")
    return config


def export_folder(workdir: str, folder: str, *, step: str | None = None, average: bool = True,
                  say: weights.Say = print) -> None:
    """Writes what a workdir of Talker-T2AV holds as its owners lay a release out; see
    data_pipelines/ingest/talker/exported.py.

    Args:
      folder: to make.
      step, average: see `weights.export`.
      say: is told what was written, and what was left out and why.

    Raises UserError: another system, a network that the published code has not, files of other
    networks than the model's; a folder that exists.
    """
    out = Path(folder)
    if out.exists():
        raise UserError("cannot write the release", where=folder, expected="a new folder",
                        found="it exists", hint="choose another --folder")
    state, system, meta = weights.trained(workdir, step, average, say)
    if system.name != TALKER:
        raise UserError("no release of this system is written", where=workdir, expected=TALKER,
                        found=system.name, hint="--out=FILE writes its weights")
    decoder = Decoder.from_workdir(workdir)
    exported.check(system, decoder.recipes)
    system.vocab = exported.embeddings(state, decoder.codecs, decoder.recipes)
    aside = out.with_name(f".{out.name}.exporting")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with failures.working_on(out):
            (aside / release_layout.NETWORK).mkdir(parents=True)
            weights.write(str(aside / release_layout.WEIGHTS), state, system, meta)
            say(f"{release_layout.WEIGHTS}: {len(state)} arrays")
            exported.write(aside, Path(workdir), system, decoder.recipes, decoder.codecs, say)
            aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _experiment(parts: release.Parts) -> ConfigDict:
    """The release's, with the sizes of the network's file."""
    config = avflow_50h.get_config()
    state = read_state_dict(str(parts.network))
    config.system.update(weights.published(AVFLOW, "--system").sizes(state, config.system))
    return config


def _vocoder(file: Path | None, place: Path, say) -> None:
    if file is None:
        say("vocoder: none found, so Griffin-Lim makes the sound; --vocoder=FILE names one")
        return
    vocoders.load(file, release.mel_recipe())
    _copy(place / vocoders.NAME, file, file.with_name("config.json"))
    say(f"vocoder: {file}")


def _sound(file: Path | None, place: Path, say) -> None:
    if file is None:
        say("sound to tokens: none found; avjax generate --audio wants --ctc=FILE")
        return
    ctc.load(str(file))
    if file.is_dir():
        shutil.copytree(file, place / ctc.NAME)
    else:
        _copy(place / ctc.NAME, file, file.with_name("config.json"))
    say(f"sound to tokens: {file}")


def _text(file: Path | None, place: Path, say) -> None:
    if file is None:
        say("text to tokens: none found; drive it by --audio or --tokens")
    else:
        weights.import_file(TEXT_SYSTEM, str(file), str(place / TEXT))
        say(f"text to tokens: {file}")


def _describe(place: Path, recipes: dict[str, dict], codecs: dict[str, dict]) -> None:
    (place / RECIPES_FILE).write_text(json.dumps(recipes, indent=1))
    (place / CODECS_DIR).mkdir()
    for name, arrays in codecs.items():
        np.savez(place / CODECS_DIR / f"{name}.npz", **arrays)


def _copy(folder: Path, *files: Path) -> None:
    folder.mkdir()
    for file in files:
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def _keep(folder: Path, *files: Path) -> None:
    """Gigabytes as another name of the same file, where the file system has such; else copied."""
    folder.mkdir()
    for file in files:
        if file.is_file():
            atomic.link(file.resolve(), folder / file.name)
