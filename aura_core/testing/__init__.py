"""What a plugin's author tests with: contract tests and provider twins."""
