"""From a trained model to a bundle that runs without the code it was trained with."""
