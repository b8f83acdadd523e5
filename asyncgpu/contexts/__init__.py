"""Execution contexts: streams that follow the task, sessions, events."""
