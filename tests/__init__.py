"""The test suite: unit and property tests, contracts of the ports, real brokers and faults."""
