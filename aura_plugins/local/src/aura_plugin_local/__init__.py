"""The embedded compute and the small runtime that goes with it."""
