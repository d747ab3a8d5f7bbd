"""The control plane, and the operator's tools."""
