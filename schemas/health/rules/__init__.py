"""The rules by which a worker holds itself: each says of one look whether it is bad, well, or unknown. Pure."""
