"""What happens between a prompt and a finished rollout."""
