"""ElevenLabs as an integration of Aura."""
