"""What the launchers do, as functions: a file of launch/ has the flags and calls one of these."""
