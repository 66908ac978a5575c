"""What a run leaves on disk: the files of its folder, committed checkpoints, the lock."""
