"""The runtime library: strings, text formatting, conversions."""
