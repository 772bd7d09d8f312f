"""What is saved of a run, how it goes on from there, and what is kept."""
