"""Which networks there are, and the folder in which their files are looked for.

Nothing is fetched: a file that is not there leaves the metrics that need it out, by name.
"""

import dataclasses
import functools
import importlib
import importlib.util
import pathlib
from collections.abc import Iterable
from typing import Any

from avjax.encoders.voices import ge2e
from avjax.errors import UserError
from avjax.weights.reader import file_sha256


@dataclasses.dataclass(frozen=True)
class Network:
    """One published network.

    Attributes:
      files: the names under which its weights are published; the first that is found is read.
      where: where its owners publish them.
      licence: that they give, "" where none is known.
      module: of eval/networks; its `load(path)` gives what metrics call. UserError there for a
        file of another network, with every array that is missing, left over or of another shape.
      package: that carries the file; where it is installed, the folder need not have it.
      ahead: whether it has `ahead(waves, rate)`, which hears several sounds together and keeps what
        it makes of them.
    """

    files: tuple[str, ...]
    where: str
    licence: str
    module: str
    package: str = ""
    ahead: bool = False

    @property
    def wanted(self) -> str:
        """For the reader: which file, and where it is."""
        return f"{' or '.join(self.files)} ({self.where})"


DNS_CHALLENGE = "pip install 'avjax[dnsmos]'; github.com/microsoft/DNS-Challenge, DNSMOS"
WHISPERS = ("large-v3", "large-v3-turbo", "small")
TABLE: dict[str, Network] = {
    "syncnet": Network(("syncnet_v2.model",), "github.com/joonson/syncnet_python", "MIT",
                       "syncnet"),
    "inception": Network(("pt_inception-2015-12-05-6726825d.pth",),
                         "github.com/mseitzer/pytorch-fid/releases", "Apache-2.0",
                         "pictures.inception"),
    "i3d": Network(("i3d_pretrained_400.pt",), "github.com/songweige/TATS", "MIT",
                   "pictures.i3d"),
    "smirk": Network(("SMIRK_em1.pt",), "github.com/georgeretsi/smirk", "MIT", "pictures.smirk"),
    "wavlm_ecapa": Network(("wavlm_large_finetune.pth",),
                           "github.com/microsoft/UniSpeech, downstreams/speaker_verification",
                           "the repository's LICENSE", "speech.wavlm_ecapa", ahead=True),
    "voxsim": Network(("wavlm_ecapa.model",), "github.com/kaistmm/voxsim_trainer", "",
                      "speech.voxsim", ahead=True),
    "utmos": Network(("utmos22_strong_step7459_v1.pt",),
                     "github.com/tarepan/SpeechMOS, release v1.0.0", "MIT", "speech.utmos",
                     ahead=True),
    "wav2vec2_ctc": Network(("wav2vec2_fairseq_base_ls960_asr_ls960.pth",
                             "wav2vec2-base-960h/model.safetensors"),
                            "download.pytorch.org/torchaudio/models; "
                            "huggingface.co/facebook/wav2vec2-base-960h", "MIT; Apache-2.0",
                            "speech.wav2vec2_ctc", ahead=True),
    "whisper": Network(tuple(f"whisper-{size}/model.safetensors" for size in WHISPERS),
                       "with config.json, generation_config.json and tokenizer.json beside it; "
                       "huggingface.co/openai", "Apache-2.0 (large-v3), MIT (large-v3-turbo)",
                       "speech.whisper", ahead=True),
    "ge2e": Network(("resemblyzer/pretrained.pt",), ge2e.INSTALL, "Apache-2.0",
                    "speech.ge2e", "resemblyzer", ahead=True),
    "dnsmos": Network(("speechmos/dnsmos_models/sig_bak_ovr.onnx", "sig_bak_ovr.onnx"),
                      DNS_CHALLENGE, "MIT", "speech.dnsmos", "speechmos", ahead=True),
    "dnsmos_p808": Network(("speechmos/dnsmos_models/model_v8.onnx", "model_v8.onnx"),
                           DNS_CHALLENGE, "MIT", "speech.dnsmos_p808", "speechmos", ahead=True),
}


class Networks:
    """Those of TABLE whose file lies in a folder, or in an installed package.

    Args:
      folder: of `--networks`; "" has none.

    Raises UserError: no such folder.
    """

    def __init__(self, folder: str = ""):
        self.paths: dict[str, pathlib.Path] = {}
        self._loaded: dict[str, Any] = {}
        if not folder:
            return
        place = pathlib.Path(folder)
        if not place.is_dir():
            raise UserError("no folder of networks here", where=f"--networks={folder}",
                            expected="a folder with " + ", ".join(
                                name for n in TABLE.values() for name in n.files),
                            found="a file" if place.exists() else "nothing",
                            hint="give the folder that the files were saved in")
        for name, network in TABLE.items():
            places = [place, *_installed(network.package)]
            found = [p / file for p in places for file in network.files if (p / file).is_file()]
            if found:
                self.paths[name] = found[0]

    def __getitem__(self, name: str):
        """What `load` of the network's module made of its file; kept."""
        if name not in self._loaded:
            module = importlib.import_module(f"eval.networks.{TABLE[name].module}")
            self._loaded[name] = module.load(self.paths[name])
        return self._loaded[name]

    def found(self, names: Iterable[str]) -> bool:
        """Whether the files of all these networks are there."""
        return self.paths.keys() >= set(names)

    def lacking(self, names: Iterable[str]) -> list[str]:
        """"FILE (where)" of each whose file is not there."""
        return [TABLE[n].wanted for n in names if n not in self.paths]

    def recipe(self, names: Iterable[str]) -> dict:
        """{"networks": {name: {"file", "sha256"}}} of a metric that needs these; {} of none."""
        found = {name: {"file": self.paths[name].name, "sha256": _sha256(self.paths[name])}
                 for name in names}
        return {"networks": found} if found else {}


def _installed(package: str) -> list[pathlib.Path]:
    """Where an installed package lies; it is not imported."""
    spec = importlib.util.find_spec(package) if package else None
    return [pathlib.Path(x).parent for x in spec.submodule_search_locations or ()] if spec else []


@functools.cache
def _sha256(path: pathlib.Path) -> str:
    return file_sha256(path)
