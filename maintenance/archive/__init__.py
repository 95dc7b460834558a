"""Archives: what the cleaner removes, kept in files that can be verified and brought back."""
