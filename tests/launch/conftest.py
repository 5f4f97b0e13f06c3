import jax
import pytest

from launch import training


@pytest.fixture
def one_device(monkeypatch):
    """head_vae's rules replicate everything; one device keeps compilation short."""
    device = jax.devices()[:1]
    monkeypatch.setattr(training, "make_mesh", lambda sizes, dcn=None,
                        make=training.make_mesh: make(sizes, device))
