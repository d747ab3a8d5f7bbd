"""What both halves need of a library, spelled once: the only modules of `schemas` that import one beside pydantic."""
