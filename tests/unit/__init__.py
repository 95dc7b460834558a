"""Unit and property tests: no broker, no network, no process."""
