"""The JSON interface: parse, call a service, answer."""
