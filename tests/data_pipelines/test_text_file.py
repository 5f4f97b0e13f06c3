"""Text files in the encodings that editors write: read rightly, or refused with the line and what
they may be."""

import codecs

import pytest

from avjax.errors import UserError
from data_pipelines import media
from data_pipelines.features.tavid import script
from data_pipelines.ingest.common import recordings
from data_pipelines.media import text_file

TEXT = "Anna: The café is “open”.\nBen: Łódź, naïve 日本.\n"


@pytest.mark.parametrize("mark, encoding", [
    (b"", "utf-8"), (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"), (b"", "utf-16-le"), (b"", "utf-16-be")])
def test_unicode_of_every_kind(tmp_path, mark, encoding):
    file = tmp_path / "a.txt"
    file.write_bytes(mark + TEXT.encode(encoding))
    assert text_file.read(file) == TEXT
    assert script.read(file).names == ("Anna", "Ben")
    source = recordings.Source("a", "a", None, None, file)
    assert recordings.text_of(source) == " ".join(TEXT.split())


@pytest.mark.parametrize("content, message", [
    ("One line.\nThe café is open.\n".encode("cp1252"), "line 2; .*0xe9 in 'The café "
                                                        "is.*Windows-1252.*iconv -f CP1252"),
    ("“Hello” she said".encode("cp1252"), "line 1; .*0x93.*Windows-1252"),
    (b"ID3\x04\x00\x00\x00\xff\xfb\x90\x44 not text", "utf-8 it is not, no text"),
    ("日本語のテキスト".encode("utf-16-le"), "unreadable"),
    (b"some\0bytes", "zero byte")])
def test_other_encodings_are_refused_by_line_and_name(tmp_path, content, message):
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    for read in (text_file.read, script.read):
        with pytest.raises(UserError, match=message) as error:
            read(file)
        assert str(file) in str(error.value) and "\n" not in str(error.value)
    source = recordings.Source("a", "a", tmp_path / "a.mp4", None, file)
    # so that it is quarantined
    with pytest.raises(media.MediaError, match="unreadable transcript") as error:
        recordings.read(source)
    assert error.value.reason == "unreadable transcript"


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="unreadable script.*No such file"):
        script.read(tmp_path / "none.txt")
