"""From prepared cases to a trained UNet3d."""
