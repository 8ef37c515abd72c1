"""The I/O manager: drivers, devices, files, IRPs, work items."""
