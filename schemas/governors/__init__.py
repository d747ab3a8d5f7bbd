"""Budgets, windows and the fleet's capacity: what each decides, of values and with the time passed in. Pure."""
