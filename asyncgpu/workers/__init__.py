"""The process edge: worker processes, their channels and what crosses them."""
