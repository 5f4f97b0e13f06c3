"""Frames a second of what this project reads and makes, once."""

CLIP_FPS = 30  # pictures, face codes and poses of clips
MODEL_FPS = 25  # pictures and motion of systems that make pictures or motion codes
UNIT_RATE = 50  # semantic units and phoneme features a second
