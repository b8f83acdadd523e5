"""Real NVIDIA devices."""
