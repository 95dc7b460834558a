"""Tests that kill, stop and freeze real processes while changes flow."""
