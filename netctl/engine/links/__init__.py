"""Links, addresses and routes: ours as they should be, others' as they are, and the kernel's word when they change."""
