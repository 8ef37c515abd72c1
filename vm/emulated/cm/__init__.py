"""The configuration manager: the registry."""
