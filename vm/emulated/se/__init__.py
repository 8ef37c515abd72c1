"""Security: descriptors, SDDL, access checks."""
