"""What one sees of a run while it goes on: curves, a picture of them, trackers, the bar."""
