"""Models wrapped in classes, the pool that fans items out over them, and everything between."""
