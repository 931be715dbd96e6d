"""The tables of the control plane, and every query made of them."""
