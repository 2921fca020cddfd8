"""The engine: runs a checked config, stage by stage, and leaves a run folder behind."""
