"""The demo: everything at work in one process, and a tour that shows it."""

from companion.demo.tour import demo

__all__ = ["demo"]
