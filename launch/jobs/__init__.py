"""What the commands do, as functions without flags: launch.X parses, launch.jobs.X works."""
