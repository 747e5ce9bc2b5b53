//! Registers of the chip, by address.

/// Writes the register at `address`, one of the chip's.
pub fn write(address: usize, value: u32) {
    // SAFETY: the boards' files pass registers of their chips alone, and one thread uses them.
    unsafe { (address as *mut u32).write_volatile(value) }
}

/// Reads the register at `address`, one of the chip's.
pub fn read(address: usize) -> u32 {
    // SAFETY: as for `write`.
    unsafe { (address as *const u32).read_volatile() }
}
