"""Everything that judges a driver. Knows machines only through the Machine protocol of `vm.machine`."""
