"""The rules of the control plane, as plain async functions over ports."""
