"""Threads, waits, locks, IRQL, timers and time."""
