"""The core: model, topics, policy, errors and ports. No I/O, no drivers."""
