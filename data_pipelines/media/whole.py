"""Is a media file all there? By what its structure states exactly, never by a duration that
somebody estimated.

A file that was cut off (a broken copy, a full disk) ends within an element whose size is written
before it. Programs that write into a pipe, or are killed, leave placeholders there: these state
nothing. What has no such sizes (transport streams, raw AAC) is as long as what can be decoded of
it.
"""

import os
import pathlib
import struct

from data_pipelines.media import tar_tree
from data_pipelines.media.containers import MediaError

_SLACK = 16  # bytes that may be missing: odd chunks are rounded up, or not
_MP3_SLACK = 4096  # encoders disagree whether the frame with the header counts
_SECONDS = 0.25
_TAIL = 1 << 17  # bytes in which an Ogg file's last page, of at most 65307, must begin
# the last two: WAVs of more than 4 GiB, with their sizes in a chunk "ds64"
_RIFF = (b"RIFF", b"RF64", b"BW64")
_BOXES = (b"moov", b"moof", b"mdat")  # of mp4; behind the last one some cameras leave anything


def check_whole(path, heard: float | None = None) -> None:
    """Raises MediaError("truncated") for a file that was cut off. `heard`: seconds of sound
    decoded, where known."""
    with tar_tree.opened(path) as file:
        magic = file.read(12)
        if magic[:4] in _RIFF:
            check_riff(file, path)
        elif magic[:4] == b"\x1a\x45\xdf\xa3":
            _matroska(file, path)
        elif magic[4:8] in (b"ftyp", b"styp", b"wide", b"free", b"skip", *_BOXES):
            _mp4(file, path)
        elif magic[:4] == b"OggS":
            _ogg(file, path)
        elif magic[:4] == b"fLaC" and heard is not None:
            _flac(file, path, heard)
        elif magic[:8] == b"NIST_1A\n":
            _sphere(file, path, heard)
        elif pathlib.Path(str(path)).suffix.lower() == ".mp3":
            _mp3(file, path)


def check_riff(file, path) -> int | None:
    """`check_whole` of WAV and AVI from an open binary file; `path` only names it.

    Returns where a WAV's samples begin if its header does not say how many there are (written into
    a pipe).
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    wave = long = None
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", header)
        if name in _RIFF:  # an AVI of more than a gigabyte is a row of them
            form = file.read(4)
            wave = {b"WAVE": True, b"AVI ": False, b"AVIX": False}.get(form)
            size -= 4
        if wave is None:
            return None
        if name == b"ds64" and len(sizes := file.read(16)) == 16:
            long, size = struct.unpack("<8xQ", sizes)[0], size - 16
        if name == b"data" and long and size == 0xFFFFFFFF:
            size = long
        elif _placeholder(size, end - file.tell()) and (name == b"data" or not wave):
            return file.tell() if wave else None
        if name == b"data" or not wave:
            _expect(path, size, end - file.tell(), what="bytes of samples" if wave else "bytes")
        if name not in _RIFF or not wave:
            file.seek(size + size % 2, os.SEEK_CUR)
    return None


def _placeholder(size: int, there: int) -> bool:
    """Whether a RIFF size was written by a program that did not know it yet: 0, or about 2 or 4 GiB
    less than a header."""
    nearly = size > 0xFFFFF000 or 0x7FFFF000 <= size < 0x80001000
    return size <= 0 or nearly or size > 0x7FFF0000 and there < size / 2


def _expect(path, wanted: int, there: int, slack: int = _SLACK, what: str = "bytes") -> None:
    if wanted > there + slack:
        raise MediaError("truncated", path, expected=f"{wanted} {what} (header)", found=str(there),
                         hint="copy or record it again")


def _mp4(file, path) -> None:
    end, at = file.seek(0, os.SEEK_END), 0
    while at + 8 <= end:
        file.seek(at)
        size, name = struct.unpack(">I4s", file.read(8))
        if size == 1 and len(long := file.read(8)) == 8:
            size = struct.unpack(">Q", long)[0]
        if size < 8:  # 0: to the end of the file
            return
        at += size
        if name in _BOXES:
            _expect(path, at, end)


def _matroska(file, path) -> None:
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    while (name := _vint(file, keep_marker=True)) is not None and (size := _vint(file)) is not None:
        if name == 0x18538067:  # the segment: everything else is in it
            _expect(path, file.tell() + size, end)
            return
        if size > end:  # damaged: FFmpeg names the cause
            return
        file.seek(size, os.SEEK_CUR)


def _vint(file, keep_marker: bool = False) -> int | None:
    """The next variable-length number, None for "unknown" (all ones) and at the end."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(length - 1), "big")
    data = value & ((1 << 7 * length) - 1)
    return value if keep_marker else None if data == (1 << 7 * length) - 1 else data


def _ogg(file, path) -> None:
    end = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, end - _TAIL))
    tail = file.read()
    page = tail.rfind(b"OggS\0")
    lengths = tail[page + 27 : page + 27 + tail[page + 26]] if 0 <= page < len(tail) - 26 else b""
    if page >= 0:
        _expect(path, start + page + 27 + len(lengths) + sum(lengths), end, 0)


def _flac(file, path, heard: float) -> None:
    file.seek(18)  # behind the marker, the block's header and the block and frame sizes
    packed = int.from_bytes(file.read(8), "big")
    rate, samples = packed >> 44, packed & ((1 << 36) - 1)
    if rate and samples / rate > heard + _SECONDS:
        raise MediaError("truncated", path, expected=f"{samples / rate:.2f} s (header)",
                         found=f"{heard:.2f} s decoded",
                         hint="copy or record it again")


def _sphere(file, path, heard: float | None) -> None:
    """NIST SPHERE: a header of lines `name -type value` says how many samples there are; packed
    ones (shorten) are known once they are decoded."""
    end = file.seek(0, os.SEEK_END)
    file.seek(8)
    size = int(file.read(8).strip() or 0)
    file.seek(0)
    lines = (line.split() for line in file.read(size).decode("latin-1").splitlines()[2:])
    told = {line[0]: line[2] for line in lines if len(line) == 3}
    count, rate = int(told.get("sample_count", 0)), float(told.get("sample_rate", 0))
    if "," not in told.get("sample_coding", ""):  # "pcm,embedded-shorten-v2.00" is packed
        width = int(told.get("channel_count", 1)) * int(told.get("sample_n_bytes", 1))
        _expect(path, size + count * width, end)
    elif heard is not None and rate and count / rate > heard + _SECONDS:
        raise MediaError("truncated", path, expected=f"{count / rate:.2f} s (header)",
                         found=f"{heard:.2f} s decoded", hint="copy it again")


def _mp3(file, path) -> None:
    """By the header of LAME, FFmpeg and most others, in the first frame; without one nothing is
    stated."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    tag = file.read(10)
    skip = 0
    if tag[:3] == b"ID3" and len(tag) == 10:
        skip = 10 + sum((byte & 127) << shift for byte,
                        shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    file.seek(skip)
    head = file.read(200)
    at = max(head.find(b"Xing"), head.find(b"Info"))
    if at >= 0 and head[at + 7] & 2:
        size = int.from_bytes(head[at + 8 + 4 * (head[at + 7] & 1) :][:4], "big")
        _expect(path, skip + size, end, _MP3_SLACK)
