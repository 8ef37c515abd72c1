"""What an image file is, what is wrong with it, and what Windows will answer when it is deployed."""
