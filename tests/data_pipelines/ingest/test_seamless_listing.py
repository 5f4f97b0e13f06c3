"""What there is of Seamless Interaction, where folders and lists are not as they should be: nothing
is decoded here."""

import collections
import io

import numpy as np
import pytest

from avjax.errors import UserError
from data_pipelines.ingest.common import arrays
from data_pipelines.ingest.seamless import prepare
from data_pipelines.ingest.seamless import side as side_of
from data_pipelines.store import dataset as store
from tests.data_pipelines.ingest import seamless_tree as tree

A, B = (f"V00_S0001_I0000000{k}" for k in (1, 2))


def dyad(name: str) -> dict:
    return {f"{name}_P000{k}": {"wav": b"RIFF"} for k in (1, 2)}


@pytest.fixture
def root(tmp_path):
    tree.write_tar(tmp_path / "improvised/train/0000/0000.tar", dyad(A) | dyad(B))
    tree.write_tar(tmp_path / "improvised/dev/0000/0000.tar", dyad(A))
    return tmp_path


def test_what_is_held_out_stays_so(root):
    found = prepare.corpus(root)
    assert {split: [(one["id"], one["twice"]) for one in items]
            for split, items in found.items.items()} == {
        "train": [(A, True), (B, False)], "valid": [(A, False)]}
    with pytest.raises(store.Unusable, match="in two splits"):
        list(found.read(found.items["train"][0]))


def test_links_are_followed_once_and_said_where_they_lead_nowhere(root):
    (root / "improvised/train/0000/up").symlink_to("..")
    (root / "improvised/train/0000/0009.tar").symlink_to("nowhere")
    found = prepare.corpus(root)
    assert len(found.items["train"]) == 2
    assert {what: n for what, n in found.told.items() if n} == {
        "links that lead nowhere: not read": 1}


COLUMNS = "file_id,label,split,batch_idx,archive_idx\n"


@pytest.mark.parametrize("text, found", [
    ("", "line 0.*file_id"), (COLUMNS + "x,improvised,train,0\n", "line 2.*index out of range"),
    (COLUMNS + "x,improvised,train,a,0\n", "line 2.*'a'"),
    (f"{COLUMNS}\"{'x' * 140_000}\n", "line 2.*field limit")])
def test_a_list_that_is_none_is_said(root, text, found):
    (root / "filelist.csv").write_text(text)
    with pytest.raises(UserError, match=f"unreadable table.*{found}"):
        prepare.corpus(root)


def test_a_list_with_a_byte_order_mark(root):
    (root / "filelist.csv").write_text(f"\ufeff{COLUMNS}{B}_P0001,improvised,train,0,0\n"
                                       f"{B}_P0003,improvised,train,0,0\n")
    assert prepare.corpus(root).told["files of filelist.csv that their archive lacks"] == 1


def test_a_header_that_asks_for_more_than_there_is(tmp_path):
    """No room is made for it: that would end the job."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False,
                                                "shape": (10**13, 4)})
    (tmp_path / "x.npy").write_bytes(file.getvalue() + bytes(64))
    size = (tmp_path / "x.npy").stat().st_size
    files = side_of.Files(tmp_path, A, {"g:x": ["x.npy", None, size, ""]}, False)
    with pytest.raises(store.Unusable, match="unreadable arrays.*10000000000000"):
        files.arrays("g:x")


def test_headers_are_read_one_at_a_time(monkeypatch):
    """Sides are read in threads, and Python's parser of headers fails in two at once."""
    real, held = np.lib.format.read_array_header_1_0, collections.Counter()

    def parse(stream):
        held[arrays._HEADERS.locked()] += 1
        return real(stream)

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", parse)
    file = io.BytesIO()
    np.save(file, np.arange(3))
    assert arrays.contained(file.getvalue()).tolist() == [0, 1, 2]
    assert held == {True: 1}
