"""The static facts of an integration, readable without importing its code."""
