import inspect

import jax
import pytest

from launch import training
from launch.jobs import generate, weights


@pytest.fixture(autouse=True, scope="package")
def nobody_listens():
    """Griffin-Lim makes sound of the right length in two steps, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "ITERATIONS", 2)
        yield


@pytest.fixture
def one_device(monkeypatch):
    """head_vae's rules replicate everything; one device keeps compilation short."""
    device = jax.devices()[:1]
    monkeypatch.setattr(training, "make_mesh", lambda sizes, dcn=None,
                        make=training.make_mesh: make(sizes, device))


@pytest.fixture(scope="module")
def imports_on_one_device():
    """What a file becomes is the same on eight, which tests/launch/test_weights_job.py has."""
    device = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "make_mesh",
                      lambda sizes, make=weights.make_mesh: make({"data": 1}, device))
        yield


@pytest.fixture(scope="module")
def shared_avatars():
    """Whoever asks for the same avatar gets the one that has compiled what it made."""
    make, made = generate.Avatar, {}

    def shared(*args, **settings):
        given = inspect.signature(make).bind(*args, **settings)
        given.apply_defaults()
        key = str(given.arguments.pop("workdir")), *given.arguments.items()
        if key not in made:
            made[key] = make(*args, **settings)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "Avatar", shared)
        yield
