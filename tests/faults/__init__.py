"""Faults of the machine and the network, each injected into a real fleet and judged by the fleet tests' checker."""
