"""Companion: what the three services beside an EMQX broker share."""
