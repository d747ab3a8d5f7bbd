"""The audit: what is put on record, and whether it is what was recorded."""
