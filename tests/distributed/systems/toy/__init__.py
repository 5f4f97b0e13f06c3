"""The system that config.system.name = "toy" picks in job.py."""
