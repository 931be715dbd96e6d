"""What an integration is, and how one is found, connected, refreshed and revoked."""
