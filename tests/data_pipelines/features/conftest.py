"""Dialogues of puppets and TAVID's features of them."""

import pytest

from data_pipelines import extract
from data_pipelines.features.tavid import frozen_encoders
from data_pipelines.puppets import build
from data_pipelines.store import dataset as store
from tests.data_pipelines.features.dialogues import OPTIONS, Averages


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tavid")


@pytest.fixture(scope="session")
def clips(folder):
    build.prepare(folder / "clips", sentences=3, valid=3, test=3, speakers=3, held_out=3,
                  dialogues=3, turns=3, seed=1, progress=False)
    return store.open_dataset(folder / "clips_dialogues")


@pytest.fixture(scope="session")
def features(clips, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen_encoders, "load_pictures", lambda path: Averages())
        return extract.extract(clips.dir, folder / "features", features="tavid", vae="a VAE",
                               **OPTIONS)
