"""From masks of any origin and labels to the scores that ``stages.evaluate`` gives a model."""
