"""The contract: what every room agrees on. Pure values and transitions; no I/O, no clock, no key."""
