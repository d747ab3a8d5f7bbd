"""What stands in for hardware that is not here."""
