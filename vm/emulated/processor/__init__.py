"""The emulated CPU and the boundary between its code and the host's."""
