"""Maintenance: work that keeps the stores small and in step."""
