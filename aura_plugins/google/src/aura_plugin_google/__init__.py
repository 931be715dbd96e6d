"""Google as integrations of Aura."""
