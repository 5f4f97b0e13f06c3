"""Several people's recordings and a model that cannot tell them apart."""

import types

import numpy as np
import pytest

from avjax.errors import UserError
from avjax.systems import api
from configs import clips
from launch import identities


def dataset(names, kind="eigenface"):
    return types.SimpleNamespace(dir="data/mine", codecs=("speakers",),
                                 recipes={"face": {"kind": kind}},
                                 codec=lambda name: {"names": np.array(names)})


def system(**changes):
    config = clips.get_config()
    config.system.update(changes)
    return api.build(config.system)


def test_people_whose_codes_mean_other_faces_are_refused_with_the_way_on(capsys):
    with pytest.raises(UserError, match="3 people.*ann, bob, "
                                        "eve.*identity_dim=8.*--speaker=ann.*--longest_identity"):
        identities.check(system(), dataset(["ann", "bob", "eve"]), begun=False)
    identities.check(system(), dataset(["ann"]), begun=False)
    identities.check(system(identity_dim=8), dataset(["ann", "bob", "eve"]), begun=False)
    assert not capsys.readouterr().err
    for names, kind, begun in ((["ann", "bob"], "eigenface", True),
                               (["ann", "bob"], "puppet", False)):
        identities.check(system(), dataset(names, kind), begun=begun)
        shown = capsys.readouterr().err
        assert "2 people in one model that cannot tell them apart (ann, bob)" in shown
