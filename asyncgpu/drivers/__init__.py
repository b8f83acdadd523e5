"""The GPU edge: the only place that imports torch, cuda or pynvml."""
