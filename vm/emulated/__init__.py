"""A machine without Windows: the driver's own machine code in a CPU emulator, under an emulated NT kernel."""
