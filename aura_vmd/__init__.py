"""The daemon on an agent's machine: it holds credentials so that the agent need not."""
