"""The library espeak-ng, from the espeakng-loader wheel, through ctypes.

It is global and not thread safe: `speak` holds one lock. espeak-ng 1.52 carries state from one
utterance to the next: the position in its pitch flutter table and a counter of voice cycles. Both
are switched off by a voice variant (flutter 0, roughness 0) and its noise is reseeded, so the same
call gives the same samples whatever was spoken before.
"""

import atexit
import ctypes
import difflib
import functools
import pathlib
import shutil
import tempfile
import threading

import espeakng_loader
import numpy as np

from avjax.errors import UserError

SAMPLE_RATE = 22050
WORD, END, PHONEME = 1, 5, 7  # types of events
_lock = threading.Lock()


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint),
                ("text_position", ctypes.c_int), ("length", ctypes.c_int),
                ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
                ("user_data", ctypes.c_void_p), ("id", _Id)]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int,
                             ctypes.POINTER(_Event))
_SYNCHRONOUS = 2
_PHONEME_EVENTS_IPA = 3
_DONT_EXIT = 0x8000
_UTF8 = 1
_RATE_PARAMETER = 1
_IPA = 2


class _Voice(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("languages", ctypes.c_void_p),
                ("identifier", ctypes.c_char_p), ("gender", ctypes.c_ubyte),
                ("age", ctypes.c_ubyte), ("variant", ctypes.c_ubyte), ("xx1", ctypes.c_ubyte),
                ("score", ctypes.c_int), ("spare", ctypes.c_void_p)]


class Library:
    """The loaded library with a data folder of its own: links to the wheel's, and a place for voice
    variants."""

    def __init__(self):
        home = pathlib.Path(tempfile.mkdtemp(prefix="espeak"))
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        data = home / "espeak-ng-data"
        self.variants = data / "voices" / "!v"
        self.variants.mkdir(parents=True)
        for entry in pathlib.Path(espeakng_loader.get_data_path()).iterdir():
            if entry.name != "voices":
                (data / entry.name).symlink_to(entry)
        self.lib = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        got = self.lib.espeak_Initialize(_SYNCHRONOUS, 200, str(home).encode(), _PHONEME_EVENTS_IPA
                                         | _DONT_EXIT)
        if got != SAMPLE_RATE:
            raise UserError("espeak-ng did not start", where=str(espeakng_loader.get_data_path()),
                            expected=f"{SAMPLE_RATE} Hz", found=str(got),
                            hint="reinstall espeakng-loader")
        self.chunks = []
        self.events = []
        self.callback = _Callback(self._receive)  # kept: the library holds only a pointer
        self.lib.espeak_SetSynthCallback(self.callback)
        self.lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self.lib.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))

    def _receive(self, wave, count, events):
        if count > 0:
            self.chunks.append(np.ctypeslib.as_array(wave, (count,)).copy())
        i = 0
        while events[i].type:
            e = events[i]
            symbol = bytes(e.id.string).decode("utf8", "ignore") if e.type == PHONEME else ""
            self.events.append((e.type, e.text_position, e.length, e.sample, symbol))
            i += 1
        return 0

    def speak(self, text, pitch, formants, rate):
        name = f"p{pitch[0]}-{pitch[1]}-{formants}"
        path = self.variants / name
        if not path.exists():
            path.write_text("language variant\nname puppet\nflutter 0\nroughness 0\n"
                            f"pitch {pitch[0]} {pitch[1]}\n"
                            + "".join(f"formant {i} {formants} 100 100\n" for i in range(9)))
        self.chunks = []
        self.events = []
        status = self.lib.espeak_SetVoiceByName(f"en-us+{name}".encode())
        self.lib.espeak_SetParameter(_RATE_PARAMETER, rate, 0)
        self.lib.espeak_ng_SetRandSeed(1)
        encoded = text.encode()
        status = status or self.lib.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 1,
                                                 0, _UTF8, None, None)
        if status:
            raise UserError("espeak-ng failed", where="text",
                            found=f"status {status} for {text[:40]!r}")
        return np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.int16), self.events

    def phonemes(self, text, language):
        self.lib.espeak_SetVoiceByName(self.voice_of(language).encode())
        rest = ctypes.c_char_p(text.encode())
        clauses = []
        while rest.value is not None:  # NULL after the last clause
            said = self.lib.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA)
            clauses.append(said.decode() if said else "")
        return " ".join(clauses)

    def voice_of(self, language):
        known = self.languages()
        if language not in known:
            near = difflib.get_close_matches(language, known, 5, 0)
            raise UserError("a language that espeak-ng does not speak", where="--language",
                            expected=f"one of {len(known)}, such as {', '.join(near)}",
                            found=repr(language))
        return known[language]

    @functools.cache  # noqa: B019 - there is one library
    def languages(self):
        voices = self.lib.espeak_ListVoices(None)
        found = {}
        i = 0
        while voices[i]:
            voice = voices[i].contents
            place = voice.identifier.decode()
            at = voice.languages
            names = []
            while ctypes.string_at(at, 1) != b"\0":  # a priority, a name, a zero; at the end a zero
                names.append(ctypes.string_at(at + 1).decode())
                at += len(names[-1].encode()) + 2
            for name in names:
                found.setdefault(name.lower(), place)
            i += 1
        # "fr" is what the voice of that name speaks, and not Belgium's, which comes first
        found |= {pathlib.PurePosixPath(place).name.lower(): place for place in found.values()}
        return found | {"en": found["en-us"]}


@functools.lru_cache(maxsize=1)
def _library() -> Library:
    return Library()


def speak(text: str, pitch: tuple[int, int], formants: int, rate: int):
    """(N,) int16 samples, and events (type, text position, length, sample, phoneme) of one clause;
    see avjax.encoders.espeak.synthesize for the arguments."""
    with _lock:
        return _library().speak(text, tuple(int(p) for p in pitch), int(formants), int(rate))


def phonemes(text: str, language: str) -> str:
    """IPA with stress of some words in a language of espeak-ng ("en-us"), which are normalised
    already. Words in another language come between flags: "(en)həlˈəʊ(ru)"."""
    with _lock:
        return _library().phonemes(text, language)


def voice_of(language: str) -> str:
    """The name of the voice that speaks a language, in small letters. UserError: there is none."""
    with _lock:
        return _library().voice_of(language)
