"""Long text is cut where a reader would pause, and nothing of it is lost."""

import pytest

from avjax.encoders import sentences

TEXT = ("Dr. Smith went home. He was tired, and it rained; nobody came out to greet him at the "
        "door that evening. Then he slept! \u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002"
        "\u6211\u4eec\u53bb\u516c\u56ed\uff0c\u597d\u5417\uff1f\n\nEnd here")


@pytest.mark.parametrize("most", [12, 30, 80, 110, 500])
def test_pieces_fit_and_join_to_the_text(most):
    made = sentences.pieces(TEXT, lambda text: len(text) / most)
    assert all(len(piece) <= most for piece in made)
    assert "".join("".join(made).split()) == "".join(TEXT.split())
    assert len(made) <= 2 * len(TEXT) / most + 1


def test_sentences_before_clauses_before_words():
    def cut(most):
        return sentences.pieces(TEXT, lambda text: len(text) / most)

    assert cut(500) == [TEXT]
    assert cut(110)[0].endswith("that evening.") and cut(110)[1].startswith("Then he slept!")
    assert cut(60)[:2] == ["Dr. Smith went home. He was tired, and it rained;",
                           "nobody came out to greet him at the door that evening."]
    assert "nobody came out to greet him" in " ".join(cut(30))
    with pytest.raises(ValueError, match="tired"):
        cut(5)
    lengths = [len(piece) for piece in sentences.pieces("One two three. " * 9,
                                                        lambda text: len(text) / 70)]
    assert max(lengths) - min(lengths) <= 15, "about as long as each other"
