"""Machines that a Windows driver can run on. Knows nothing of notifications, of the harness or of pytest."""
