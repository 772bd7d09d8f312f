"""From a model and prepared cases to masks on the source grid, scores and a report."""
