//! Events and their bytes: all that firmware may know of us. `no_std`, no allocation.
