"""Ingest by several workers, Apache Beam's or others: the same dataset as by one process."""

import errno
import json
import os
import re

import numpy as np
import pytest

from avjax.errors import StorageError, UserError
from data_pipelines import prepare as preparing
from data_pipelines.ingest.clips import prepare as clips
from data_pipelines.ingest.talker import listing
from data_pipelines.ingest.talker import prepare as talker
from data_pipelines.media import tar_tree
from data_pipelines.puppets import build
from data_pipelines.store import beam
from data_pipelines.store import dataset as store
from data_pipelines.store.merge import Part
from tests.data_pipelines.talker_tree import COLUMNS, half, lay_out, tone, torch_file, wav_bytes
from tests.data_pipelines.test_clips import record

IN_MEMORY = "--direct_running_mode=in_memory"


class InTurn:
    """What a runner promises, by hand: every item at least once, in any order."""

    parts = 3

    def for_each(self, function, items):
        items = list(items)
        for item in [*reversed(items), items[0]]:
            function(item)


def runners():
    """Beam's local runner, where it is installed, and a stand-in."""
    absent = pytest.mark.skipif(not _has_beam(), reason="needs the extra `beam`")
    return [pytest.param(InTurn(), id="in turn"),
            pytest.param(beam.Beam(IN_MEMORY, parts=3), id="beam", marks=absent)]


def _has_beam():
    try:
        import apache_beam  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.fixture
def talker_source(tmp_path):
    """Twelve rows in tar files: good ones, one without sound, one not finite, ids twice (of a good
    row, and of a bad one)."""
    contents, table = {}, []
    for k, (name, value) in enumerate([*((f"c{k}", 0.1 * k) for k in range(7)), ("c2", 0.9),
                                       ("mute", 0.5), ("nan", np.nan),
                                       ("nan", 0.3), ("c0", 0.8)]):
        contents[f"motion/{k}.pt"] = torch_file(half(12 + k, value=value))
        if name != "mute":
            contents[f"audio/{k}.wav"] = wav_bytes(tone(12 + k))
        table.append(dict(zip(COLUMNS, (name, "corpus", "val" if k in (5, 11) else "train",
                                        f"Row {k}.", f"audio/{k}.wav", f"motion/{k}.pt",
                                        f"{name}.mp4", "", "25"), strict=True)))
    return lay_out(tmp_path / "source", contents, table)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*")
            if p.is_file()}


def assert_same_examples(found, expected):
    found, expected = store.open_dataset(found), store.open_dataset(expected)
    found.verify()
    assert found.ids == expected.ids
    assert found.recipes == expected.recipes
    assert found.features == expected.features
    for split in expected.splits:
        for a, b in zip(expected.source(split), found.source(split), strict=True):
            assert all(a[k] == b[k] if isinstance(a[k], str) else a[k].tobytes() == b[k].tobytes()
                       for k in a)


@pytest.mark.parametrize("runner", runners())
def test_talker_is_the_same_dataset(tmp_path, talker_source, runner):
    talker.prepare(talker_source, tmp_path / "one", progress=False)
    summary = talker.prepare(talker_source, tmp_path / "many", parallel=runner)
    assert_same_examples(tmp_path / "many", tmp_path / "one")
    refused = [sorted((r["id"], r["reason"], r["detail"]) for r in map(
        json.loads, (tmp_path / f"{name}.quarantine.jsonl").read_text().splitlines()))
               for name in ("one", "many")]
    assert len(refused[0]) == 4 and [r[:2] for r in refused[0]] == [r[:2] for r in refused[1]]
    assert all(one[2] in many[2] for one, many in zip(*refused, strict=True))
    assert summary["clips"] == sum(store.open_dataset(tmp_path / "many").splits.values())
    assert not list(tmp_path.glob(".many*"))
    with pytest.raises(UserError, match="refusing to overwrite"):
        talker.prepare(talker_source, tmp_path / "many", parallel=runner)


def test_talkers_parts_hold_their_own_rows_only(tmp_path, talker_source):
    made = listing.Listing(talker_source)
    plan, held = talker.Plan(made, 0.02), []
    for k in range(3):
        rows = talker._rows_of(Part(tmp_path, k, 3), made, plan)
        mine = [one for part in rows.values() for one in part if one]
        assert {split: len(part) for split,
                part in rows.items()} == plan.counts and 3 <= len(mine) <= 5
        held += [(row.line, [other.line for other in earlier]) for row, earlier in mine]
    # the csv's lines 2 to 13; the last one is of `valid`, its namesake in `train`
    assert dict(held) == {f"line {n}": {9: ["line 4"], 12: ["line 11"], 13: ["line 2"]}.get(n, [])
                          for n in range(2, 14)}


def test_talker_goes_on_after_a_part(tmp_path, talker_source, monkeypatch):
    """A part that is there is not made again, and the shards' index is read once."""
    indexed = []
    monkeypatch.setattr(tar_tree.TarTree, "_index", lambda *a,
                        index=tar_tree.TarTree._index: indexed.append(1) or index(*a))
    talker.prepare(talker_source, tmp_path / "one", progress=False)
    once = len(indexed)
    for k in (1, 0, 1):
        assert talker.prepare(talker_source, Part(tmp_path / "many", k, 3), progress=False) is None
    assert len(indexed) == 2 * once
    assert talker.prepare(talker_source, Part(tmp_path / "many", 2, 3), progress=False)["clips"] > 0
    assert_same_examples(tmp_path / "many", tmp_path / "one")


def test_a_part_that_is_started_again_takes_in_what_was_mended(tmp_path, talker_source, capsys):
    """Also from another path; once the dataset is whole, only what it was made of is taken for
    it."""
    talker.prepare(talker_source, tmp_path / "one", progress=False)
    for k in (0, 2, 1):
        if k == 1:
            (talker_source / "audio").mkdir()
            # the row `mute` has its sound
            (talker_source / "audio" / "8.wav").write_bytes(wav_bytes(tone(20)))
            talker_source = talker_source.rename(tmp_path / "moved")
            assert talker.prepare(talker_source, Part(tmp_path / "out", 2, 3),
                                  progress=False) is None
            assert "can be used now: mute" in capsys.readouterr().err
        talker.prepare(talker_source, Part(tmp_path / "out", k, 3), progress=False)
    ids = [{i for names in store.open_dataset(tmp_path / name).ids.values() for i in names}
           for name in ("one", "out")]
    assert ids[1] - ids[0] == {"mute"} and ids[0] < ids[1]
    assert talker.prepare(talker_source, Part(tmp_path / "out", 0, 3),
                          progress=False)["clips"] == len(ids[1])
    table = talker_source / "metadata" / "train.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="refusing to overwrite"):
        talker.prepare(talker_source, Part(tmp_path / "out", 0, 3), progress=False)


@pytest.mark.parametrize("error, kept", [(RuntimeError("odd"), True), (MemoryError(), False),
                                         (OSError(errno.ESTALE, "Stale file handle"), False)])
def test_whatever_a_row_does_is_its_own_matter(tmp_path, talker_source, monkeypatch, error, kept):
    real = listing.motion_of
    monkeypatch.setattr(listing, "motion_of", lambda data, name: (_ for _ in ()).throw(error)
                        if name == "motion/3.pt"
                        else real(data, name))
    if not kept:
        with pytest.raises(StorageError if isinstance(error, OSError) else MemoryError):
            talker.prepare(talker_source, tmp_path / "out", progress=False)
        return
    assert talker.prepare(talker_source, tmp_path / "out",
                          progress=False)["refused"]["unreadable"] == 1
    assert "RuntimeError: odd" in (tmp_path / "out.quarantine.jsonl").read_text()


def test_a_shard_that_goes_or_shrinks_is_no_row_s_fault(tmp_path, talker_source):
    tree = tar_tree.TarTree(talker_source, progress=False)
    shard = talker_source / "shards" / "audio-00000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:4096])
    with pytest.raises(StorageError, match="shorter.*audio/5.wav"):
        tree.read("audio/5.wav")
    with pytest.raises(UserError, match="other shards.*audio-00000.tar"):
        tar_tree.TarTree(talker_source, index=tree.index())
    shard.write_bytes(whole)
    os.utime(shard, ns=(1, 1))
    assert tar_tree.TarTree(talker_source,
                            index=tree.index()).read("audio/5.wav") == wav_bytes(tone(17))
    shard.unlink()
    with pytest.raises(StorageError, match="gone.*audio-00000.tar"):
        tree.read("audio/5.wav")


@pytest.mark.parametrize("runner", runners())
def test_puppets_are_the_same_bytes(tmp_path, runner):
    options = dict(sentences=3, speakers=2, valid=1, test=1, dialogues=1, turns=3, progress=False)
    build.prepare(tmp_path / "one" / "clips", **options)
    build.prepare(tmp_path / "many" / "clips", **options, parallel=runner)
    assert files(tmp_path / "one") == files(tmp_path / "many")


@pytest.mark.parametrize("runner", runners())
def test_own_clips_are_the_same_bytes(tmp_path, runner, monkeypatch):
    """Sound alone, which is read faster; pictures take the same path."""
    for name in ("a", "b"):
        record(tmp_path / "source" / "ann" / f"{name}.mp4", 6.0)
    record(tmp_path / "source" / "ann" / "silent.mp4", 3.0, level=0.0)
    options = dict(components=4, size=48, audio_only=True, progress=False)
    clips.prepare(tmp_path / "source", tmp_path / "one" / "out", **options)
    calls = []
    monkeypatch.setattr(clips.recordings, "read", lambda *a, read=clips.recordings.read,
                        **kw: calls.append(1) or read(*a, **kw))
    clips.prepare(tmp_path / "source", tmp_path / "many" / "out", **options, parallel=runner)
    # by the workers; the job itself reads none again, not even the refused one
    assert len(calls) == 3
    assert files(tmp_path / "one") == files(tmp_path / "many")


def test_what_a_worker_says_is_one_line(tmp_path, talker_source):
    (talker_source / "metadata" / "train.csv").write_text("sample_id,text\n")
    with pytest.raises(UserError, match="columns missing.*wav_path"):
        talker.prepare(talker_source, tmp_path / "out", parallel=InTurn())
    said = beam._said(RuntimeError("Traceback\navjax.errors.UserError: no csv; where: here [while "
                                   "running 'Map']\n\nTraceback"))
    assert isinstance(said, UserError) and str(said) == "no csv; where: here"
    assert re.match("odd", str(beam._said(ValueError("odd"))))


def test_prepare_refuses_what_does_not_go_together():
    with pytest.raises(UserError, match="unknown dataset"):
        preparing.prepare("none", parallel=InTurn())


@pytest.mark.slow
@pytest.mark.skipif(not _has_beam(), reason="needs the extra `beam`")
def test_beam_on_processes_of_this_machine(tmp_path, talker_source):
    talker.prepare(talker_source, tmp_path / "one", progress=False)
    workers = beam.Beam("--direct_running_mode=multi_processing --direct_num_workers=2", parts=4)
    talker.prepare(talker_source, tmp_path / "many", parallel=workers)
    assert_same_examples(tmp_path / "many", tmp_path / "one")
    with pytest.raises(UserError, match="motion statistics missing"):
        talker.prepare(talker_source, tmp_path / "other", statistics=str(tmp_path),
                       parallel=workers)
