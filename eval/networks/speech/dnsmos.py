"""DNSMOS P.835: what listeners would say of speech, of its background and of both together, from 1
to 5, after the recommendation ITU-T P.835 (Reddy et al. 2022, arXiv:2110.01763).

The network is published as ONNX and run by the package onnxruntime. It hears 9.01 s at 16 kHz; a
recording is windows of that length a second apart, and its score their mean; what is shorter is
doubled until it is long enough. What comes out is bent by the published quadratics.
Suffixes: P windows, N samples.
"""

import dataclasses
import importlib
import itertools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from avjax.errors import UserError
from eval.networks.speech.kept import Kept
from eval.networks.speech.sound import RATE, RESAMPLER, at_16khz, is_silent

SECONDS = 9.01  # of a window
SAMPLES = int(SECONDS * RATE)
AT_ONCE = 8  # windows that are run together
NAMES = ("SIG", "BAK", "OVRL")  # in the order of the network's output
# of SIG, BAK, OVRL: coefficients of x ** 2, x and 1
BENDS = ((-0.08397278, 1.22083953, 0.0052439), (-0.13166888, 1.60915514, -0.39604546),
         (-0.06766283, 1.11546468, 0.04602535))
RECIPE = {"window_s": SECONDS, "step_s": 1, "shorter": "doubled until it is as long",
          "windows": "those that the published code takes: of whole seconds k only where "
                     "int((k + 9.01) * 16000) in doubles leaves a whole window, so none that "
                     "begin at seconds 7 to 23",
          "level": "as it came, clipped to [-1, 1]", "pooling": "mean over windows, then examples",
          **RESAMPLER}


@dataclasses.dataclass(frozen=True)
class Ports:
    """What a network of ONNX takes and gives.

    Attributes:
      what: the network, for the reader of an error.
      takes: shape of its one input, without the batch.
      gives: numbers of its one output for each row.
    """

    what: str
    takes: tuple[int, ...]
    gives: int


class Onnx:
    """A published network of one input and one output, run on CPU.

    Raises UserError: the package onnxruntime is missing, the file is no network, or it is another
    one.
    """

    def __init__(self, path, ports: Ports):
        self._path, self._ports = pathlib.Path(path), ports
        try:
            runtime = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise UserError(f"no package to run {ports.what} with", where=str(path),
                            expected="onnxruntime", found=str(error),
                            hint="pip install 'avjax[dnsmos]'") from error
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        # threads that wait asleep: other work shares the cores
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = runtime.InferenceSession(
                self._path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except OSError as error:
            raise UserError("file cannot be read", where=str(path), found=str(error)) from error
        except Exception as error:  # onnxruntime raises a class of its own for every reason
            raise UserError(f"this is not {ports.what}", where=str(path), expected="an ONNX model",
                            found=str(error).splitlines()[0],
                            hint="fetch the file again") from error
        self._check()

    def __call__(self, some: Iterable[np.ndarray]) -> np.ndarray:
        """P rows of the shape `takes`, no more than AT_ONCE in memory -> (P, gives) float64; rows
        do not see each other."""
        name, left = self._session.get_inputs()[0].name, iter(some)
        parts = [np.zeros((0, self._ports.gives))]
        while x_P := list(itertools.islice(left, AT_ONCE)):
            parts.append(self._session.run(None, {name: np.float32(x_P)})[0])
        return np.concatenate(parts).astype(np.float64)

    def _check(self) -> None:
        takes, gives = ([_shape(port) for port in ports] for ports in
                        (self._session.get_inputs(), self._session.get_outputs()))
        wanted = [self._ports.takes], [(self._ports.gives,)]
        if (takes, gives) != wanted:
            raise UserError(f"this is not {self._ports.what}", where=str(self._path),
                            expected=f"rows of {wanted[0]} to rows of {wanted[1]}",
                            found=f"rows of {takes} to rows of {gives}",
                            hint="give the file of the same name that its owners publish")


def _shape(port: Any) -> tuple:
    """Of a row: sizes, or names of sizes that are not fixed."""
    return tuple(port.shape[1:])


def windows(wave_N: np.ndarray) -> np.ndarray:
    """(N,) at 16 kHz, N > 0 -> (P, SAMPLES): those that the published code takes, in order.

    It slices up to int((k + 9.01) * 16000) and leaves out what is then a sample short: in doubles
    that is every k from 7 to 23, and 119 to 122.
    """
    while len(wave_N) < SAMPLES:
        wave_N = np.concatenate([wave_N, wave_N])
    starts = range(int(len(wave_N) // RATE - SECONDS) + 1)
    whole = [k for k in starts if int((k + SECONDS) * RATE) - k * RATE == SAMPLES]
    return np.stack([wave_N[k * RATE:k * RATE + SAMPLES] for k in whole])


def prepared(wave_N: np.ndarray, rate: float) -> np.ndarray | None:
    """Float samples at `rate` -> `windows` of them; None of silence or nothing."""
    wave_N = at_16khz(wave_N, rate)
    return None if is_silent(wave_N) else windows(np.clip(wave_N, -1, 1))


class Windowed:
    """Sound -> what a network says of its windows, put together; those of several sounds go through
    it together.

    Args:
      network: of a window.
      said: (P, gives) of a sound's windows -> what is said of the sound.
      seen: a window's samples (SAMPLES,) -> what the network takes of them.
    """

    def __init__(self, network: Onnx, said: Callable[[np.ndarray], Any],
                 seen: Callable[[np.ndarray], np.ndarray] = lambda window_N: window_N):
        self._network, self._said, self._seen = network, said, seen
        self._kept = Kept(self._made)

    def __call__(self, wave_N: np.ndarray, rate: float) -> Any:
        """Float samples at `rate`; None of silence."""
        return self._kept([at_16khz(wave_N, rate)])[0]

    def ahead(self, waves: Sequence[np.ndarray], rate: float) -> None:
        """Hears several together, to know them when they are asked for."""
        self._kept([at_16khz(wave_N, rate) for wave_N in waves])

    def _made(self, heard: list[np.ndarray]) -> list[Any]:
        counts: list[int] = []

        def rows():
            for wave_N in heard:
                windows_PN = prepared(wave_N, RATE)
                counts.append(0 if windows_PN is None else len(windows_PN))
                yield from () if windows_PN is None else map(self._seen, windows_PN)

        scores = iter(self._network(rows()))
        return [self._said(np.stack([next(scores) for _ in range(count)])) if count else None
                for count in counts]


def _opinions(scores_P3: np.ndarray) -> dict[str, float]:
    return {name: float(np.polyval(bend, scores_P3[:, k]).mean())
            for k, (name, bend) in enumerate(zip(NAMES, BENDS, strict=True))}


def load(path) -> Windowed:
    """Sound -> {"SIG", "BAK", "OVRL"}: what listeners would say. UserError as Onnx."""
    return Windowed(Onnx(path, Ports("DNSMOS (P.835)", (SAMPLES,), len(NAMES))), _opinions)


def runtime() -> dict:
    """For recipes: what runs the network."""
    return {"onnxruntime": version("onnxruntime")}
