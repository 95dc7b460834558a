"""What every adapter of a port does, whatever is behind it."""
