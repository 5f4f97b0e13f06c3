"""Tests here spend their time on compilation."""

from tests.systems.talker_golden import quick  # noqa: F401 (around every test here)
