"""Facts about the package and the tree."""
