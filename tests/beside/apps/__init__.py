"""What runs in a worker beside the fleet's own app: one module for each library, imported in its environment alone."""
