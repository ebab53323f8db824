"""SRT's trainer: rollouts in, weights out."""
