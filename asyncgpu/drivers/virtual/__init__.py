"""Devices made out of the CPU: for machines without a GPU, and for tests."""
