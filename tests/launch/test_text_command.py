"""avjax text: what is printed, and one line for what is missing."""

import pytest
from absl import flags

from avjax.errors import UserError
from launch import text


@pytest.fixture
def given(monkeypatch):
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    for name, default in {"text": None, "file": "", "language": "en-us"}.items():
        flags.DEFINE_string(name, default, "", flag_values=values)
    return lambda *argv: values(["text", *argv])


def test_it_prints_words_phonemes_and_places_of_every_line(given, tmp_path, capsys):
    file = tmp_path / "lines.txt"
    file.write_text("Hi 5.\n\nHi.\n")
    given(f"--file={file}")
    text.main([])
    assert capsys.readouterr().out.splitlines() == [
        "Hi five.", "hˈaɪ fˈaɪv.", "0 50 0 156 0 43 0 102 0 16 0 48 0 156 0 43 0 102 0 64 0 4 0",
        "Hi.", "hˈaɪ.", "0 50 0 156 0 43 0 102 0 4 0"]
    given("--text=Ja.", "--file=", "--language=de")
    text.main([])
    assert capsys.readouterr().out.splitlines()[1] == "jˈɑː."


def test_one_text_is_asked_for(given):
    given()
    with pytest.raises(UserError, match="which text.*expected: one of them"):
        text.main([])
