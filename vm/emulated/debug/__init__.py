"""What people read of a run: bugcheck reports, source lines, what drivers print."""
