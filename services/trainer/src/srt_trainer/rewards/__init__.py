"""How finished rollouts are scored."""
