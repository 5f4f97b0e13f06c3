"""Published networks that judge what is seen, one a file (see eval/networks/files.py)."""
