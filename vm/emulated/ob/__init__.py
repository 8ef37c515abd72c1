"""The object manager: objects, names, handles."""
