"""Tests with a real MQTT broker."""
