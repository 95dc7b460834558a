"""What several tests share: oracles, strategies and helpers."""
