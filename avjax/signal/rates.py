"""Rates that several rooms share, in Hz."""

VIDEO = 30  # pictures of clips, and of what AV-Flow's results are drawn at
FRAMES = 25  # frames of Talker and TAVID: pictures, motion, audio latents
UNITS = 50  # semantic units and phoneme features: two a frame
