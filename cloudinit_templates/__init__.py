"""Cloud-init user-data for an agent's machine, rendered by one pure function."""
