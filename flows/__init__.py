"""Example flows to copy."""
