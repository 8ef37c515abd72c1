"""C hooks of the emulated CPU, loaded into this process."""
