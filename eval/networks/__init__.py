"""Published networks that judge what was made, one a file: weights are an argument of pure
functions, read from their owners' own files. Each file has `load(path)`, see files.py."""
