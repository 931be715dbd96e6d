"""Alembic's environment for the tables of the control plane."""
