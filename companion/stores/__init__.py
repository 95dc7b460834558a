"""The stores: the only modules that import a driver. Each profile implements the ports of `companion.core.ports`."""
