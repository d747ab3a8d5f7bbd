"""The control plane on a real Postgres and a real Valkey."""
