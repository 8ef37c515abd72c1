"""Processes, threads and the process notify routines."""
