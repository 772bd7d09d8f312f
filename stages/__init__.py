"""What a run does: one folder per DVC stage, its steps in order."""
