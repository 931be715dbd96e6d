"""The control plane: tenants, connections, agents, and the machines they run on."""
