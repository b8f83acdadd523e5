"""Leases and residents on the devices of one machine: performs what the device table decides."""
