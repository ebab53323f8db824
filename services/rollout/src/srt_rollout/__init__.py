"""SRT in vLLM: the drafter plug-in, and the gateway of a rollout pod."""
