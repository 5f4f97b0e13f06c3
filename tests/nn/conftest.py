"""Tests here spend their time on compilation."""

from tests.quick import quick  # noqa: F401 (around every test here)
