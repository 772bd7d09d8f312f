"""Giving the cases to processes, here or on a cluster, none of which harms another."""
