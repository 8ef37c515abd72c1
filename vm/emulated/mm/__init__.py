"""Memory: the page table, pool, memory descriptor lists, and what a refused access means."""
