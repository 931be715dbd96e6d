"""What implements the ports: the services outside the control plane."""
