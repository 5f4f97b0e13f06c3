import jax
import pytest

from launch import training
from launch.jobs import generate


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
