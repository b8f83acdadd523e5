"""asyncgpu inside other software: web frameworks and tracing."""
