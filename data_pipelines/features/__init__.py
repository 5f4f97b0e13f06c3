"""Clips -> what one system reads: a file a family of systems, each with `extract(clips_dir,
out_dir, **options)`."""
