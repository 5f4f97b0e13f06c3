"""Talker-T2AV-Data in miniature: the owner's layout, and what the tests of its reader look at."""

import csv
import io
import json
import pathlib
import struct
import tarfile
import zipfile

import numpy as np
import soundfile

from data_pipelines.ingest.talker import prepare as talker
from data_pipelines.store import dataset as store

COLUMNS = (
    "sample_id,dataset_source,split,text,wav_path,motion_pt_path,video_path,pt_length,fps".split(
        ","))


def torch_file(array, pickled: bytes | None = None, width: str = "Half") -> bytes:
    """What torch.save writes for a bare tensor: the opcodes by hand, or any other pickle."""
    rows, columns = array.shape
    number = lambda n: b"J" + struct.pack("<i", n)  # noqa: E731
    text = lambda s: b"X" + struct.pack("<I", len(s)) + s  # noqa: E731
    storage = (b"("
               + text(b"storage") + f"ctorch\n{width}Storage\n".encode() + text(b"0") + text(b"cpu")
               + number(array.size) + b"tQ")
    pickled = pickled or (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage
                          + number(0) + number(rows)
                          + number(columns) + b"\x86" + number(columns) + number(1) + b"\x86\x89"
                          + b"ccollections\nOrderedDict\n)RtR.")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("clip/data.pkl", pickled)
        archive.writestr("clip/byteorder", b"little")
        archive.writestr("clip/data/0", array.tobytes())
        archive.writestr("clip/version", b"3\n")
    return out.getvalue()


def wav_bytes(audio, rate=24000, **kw) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, audio, rate, format="WAV", **kw)
    return out.getvalue()


def half(frames, width=40, value=0.25):
    return np.full((frames, width), value, np.float16)


def tone(frames, rate=24000):
    return 0.3 * np.sin(np.arange(round(frames / 25 * rate)) / 20)


def add(tar, name: str, data: bytes = b"", **attributes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in attributes.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def lay_out(root, files, table, *, extracted=False, columns=COLUMNS):
    (root / "metadata").mkdir(parents=True)
    with open(root / "metadata" / "train.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(table)
    (root / "lia_x").mkdir()
    np.save(root / "lia_x" / "motion_mean.npy", np.linspace(-1, 1, 40).astype(np.float32))
    np.save(root / "lia_x" / "motion_std.npy", np.r_[np.zeros(1), np.ones(39)].astype(np.float32))
    (root / "shards").mkdir()
    # one shard a kind: a row's files lie in different ones
    for kind in ("audio", "motion", "video"):
        with tarfile.open(root / "shards" / f"{kind}-00000.tar", "w") as tar:
            for name, data in files.items():
                if not name.startswith(kind):
                    continue
                if extracted:
                    (root / name).parent.mkdir(exist_ok=True)
                    (root / name).write_bytes(data)
                else:
                    add(tar, "./" + name, data)
    return root


def prepare(source, out, **kw):
    return talker.prepare(source, out, **{"progress": False, **kw})


def rows_of(out) -> dict[str, dict]:
    dataset = store.open_dataset(out)
    return {row["id"]: {**row, "split": split} for split in dataset.splits
            for row in dataset.source(split)}


def refusals(out) -> dict[str, tuple[str, str]]:
    lines = pathlib.Path(f"{out}.quarantine.jsonl").read_text().splitlines()
    return {entry.get("id", entry.get("member")): (entry["reason"], entry["detail"])
            for entry in map(json.loads, lines)}
