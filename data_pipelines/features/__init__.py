"""Clips -> what one system reads: a file a family of systems, each with `extract(clips_dir,
out_dir, **options)`."""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)
