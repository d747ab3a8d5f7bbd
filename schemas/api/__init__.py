"""What goes over REST: every shape spelled once, and the one parser of an order. Pure."""
