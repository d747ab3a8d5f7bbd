"""What `sluicegate.testing` offers: the gate, and checkpoints, in the process of a test. No Redis, no thread."""
