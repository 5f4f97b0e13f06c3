"""Fisher as the LDC lays it out, of buzzes: calls of twelve seconds, and one of each defect."""

import pathlib

import numpy as np

RATE = 8000
HEADER = "# fe_03_{}.sph\n# Transcribed at the LDC\n\n"
TALK = [(0.5, 2.5, "A", "hello how are you"), (2.8, 4.5, "B", "i am ((fine)) [noise] thanks"),
        (3.4, 3.8, "A", "mhm"), (5.0, 8.0, "A", "so th- what do you think of [laughter] cats"),
        (8.5, 11.0, "B", "oh i like cats")]


def mu_law(x: np.ndarray) -> np.ndarray:
    """int16 -> G.711's bytes."""
    magnitude = np.minimum(np.abs(x.astype(np.int32)), 32635) + 132
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    return (~((x < 0) * 128 | exponent << 4 | magnitude >> exponent + 3 & 15)).astype(np.uint8)


def sphere(channels, rate: int = RATE) -> bytes:
    """A file of mu-law samples (C, N)."""
    count, samples = np.shape(channels)
    header = (f"NIST_1A\n   1024\nsample_count -i {samples}\nsample_n_bytes -i 1\n"
              f"channel_count -i {count}\nsample_rate -i {rate}\nsample_coding -s4 ulaw\n"
              "end_head\n")
    return header.encode().ljust(1024) + mu_law(np.stack(channels, 1)).tobytes()


def voices(talk, seconds: float = 12.0) -> list[np.ndarray]:
    """A buzz a channel, while its speaker speaks."""
    at, out = np.arange(round(seconds * RATE)) / RATE, []
    for pitch, channel in ((110.0, "A"), (190.0, "B")):
        inside = np.any([(a <= at) & (at < b) for a, b, who, _ in talk if who == channel], 0)
        hum = np.random.default_rng(int(pitch)).normal(size=len(at)) * 20
        out.append((8000 * np.sign(np.sin(2 * np.pi * pitch * at)) * inside + hum).astype(np.int16))
    return out


def lines(talk) -> str:
    return "".join(f"{a:.2f} {b:.2f} {who}: {text}\n\n" for a, b, who, text in talk)


class Tree:
    """Writes calls below a folder."""

    def __init__(self, root: pathlib.Path):
        self.root, self.rows = root, []

    def call(self, session: str, talk=TALK, *, text: str | None = None, sound: bytes | None = None,
             pins=("1001", "1002"), year: str = "2004", encoding: str = "utf-8") -> None:
        sph = self.root / f"LDC{year}S13/fisher_eng_tr_sp_d1/audio/{session[:3]}"
        txt = self.root / f"LDC{year}T19/data/trans/{session[:3]}"
        for folder in (sph, txt):
            folder.mkdir(parents=True, exist_ok=True)
        sound = sphere(voices(TALK)) if sound is None else sound
        text = HEADER.format(session) + lines(talk) if text is None else text
        if sound:
            (sph / f"fe_03_{session}.sph").write_bytes(sound)
        if text:
            (txt / f"fe_03_{session}.txt").write_text(text, encoding)
        if pins:
            self.rows.append(f"{session},20021215_17:31,ENG01,3,3,{pins[0]},f.a,p1,s,t,{pins[1]}")

    def tables(self) -> None:
        folder = self.root / "LDC2004T19/doc"
        folder.mkdir(parents=True, exist_ok=True)
        head = ("CALL_ID,DATE_TIME,TOPICID,SIG_GRADE,CNV_GRADE,APIN,ASX.ADL,APHNUM,APHSET,APHTYP,"
                "BPIN")
        (folder / "fe_03_p1_calldata.tbl").write_text("\n".join([head, *self.rows]) + "\n")
