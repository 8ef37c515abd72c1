"""Driver images: reading, checking and mapping them."""
