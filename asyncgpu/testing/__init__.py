"""Public fakes for testing programs that use asyncgpu: virtual GPUs, gates, faults."""
