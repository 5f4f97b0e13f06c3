"""Published networks that judge what is heard, one a file (see eval/networks/files.py)."""
