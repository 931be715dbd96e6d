"""Aura at work, step by step."""
