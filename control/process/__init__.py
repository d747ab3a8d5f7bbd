"""The control plane as a process: the one place where everything is put together, started and stopped."""
